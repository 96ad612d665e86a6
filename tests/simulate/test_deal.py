"""Patients dealt out: all of them, once each, by the seed, as unevenly as asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feat_fed.config import PartitionConfig
from feat_fed.errors import DataError
from feat_fed.simulate.deal import Hands, deal
from feat_fed.simulate.patients import Patient, PooledClip

PARTITIONS = [
    PartitionConfig(kind="uniform"),
    PartitionConfig(kind="dirichlet", alpha=1e-4),
    PartitionConfig(kind="dirichlet", alpha=0.5, by="modality"),
    PartitionConfig(kind="power-law", exponent=3),
]


def pool(count: int, labels: int = 3) -> list[Patient]:
    return [
        Patient(f"{place:03d}", (PooledClip((Path("x"),), f"l{place % labels}", "US"),))
        for place in range(count)
    ]


def keys(hands: Hands) -> list[list[str]]:
    return [[each.key for each in hand] for hand in hands]


@settings(max_examples=40, deadline=None)
@given(
    partition=st.sampled_from(PARTITIONS),
    hospitals=st.integers(2, 9),
    spare=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_every_patient_is_in_one_hospital_and_each_has_enough(
    partition: PartitionConfig, hospitals: int, spare: int, seed: int
) -> None:
    patients = pool(hospitals * partition.min_patients + spare)
    hands = deal(patients, hospitals, partition, seed=seed)
    assert sorted(key for hand in keys(hands) for key in hand) == [each.key for each in patients]
    assert min(map(len, hands)) >= partition.min_patients
    assert keys(deal(patients, hospitals, partition, seed=seed)) == keys(hands)


def test_the_seed_decides() -> None:
    patients, uniform = pool(40), PartitionConfig(kind="uniform")
    one, other = (keys(deal(patients, 4, uniform, seed=seed)) for seed in (1, 2))
    assert one != other
    fixed = PartitionConfig(kind="uniform", seed=1)
    assert keys(deal(patients, 4, fixed, seed=2)) == one


def test_alpha_moves_mixes_from_one_label_to_that_of_all() -> None:
    def largest_share(alpha: float) -> float:
        partition = PartitionConfig(kind="dirichlet", alpha=alpha)
        hands = deal(pool(300), 10, partition, seed=3)
        assert {len(hand) for hand in hands} == {30}
        counts = [Counter(each.label for each in hand) for hand in hands]
        return float(np.mean([max(each.values()) / 30 for each in counts]))

    nearly_one, some, nearly_even = (largest_share(alpha) for alpha in (0.01, 1, 1000))
    assert nearly_one > 0.65  # not 1: a label that several hospitals want runs out
    assert nearly_one > some > nearly_even
    assert nearly_even < 0.5


def test_sizes_of_a_power_law() -> None:
    sizes = [len(hand) for hand in deal(pool(110), 4, PartitionConfig(kind="power-law"), seed=0)]
    ideal = 110 * np.arange(1, 5) ** -1.5 / (np.arange(1, 5) ** -1.5).sum()
    assert sizes == sorted(sizes, reverse=True)
    np.testing.assert_allclose(sizes, ideal, atol=2)
    steep = PartitionConfig(kind="power-law", exponent=20, min_patients=3)
    assert [len(hand) for hand in deal(pool(20), 4, steep, seed=0)] == [11, 3, 3, 3]


def test_too_few_patients_are_counted() -> None:
    with pytest.raises(DataError, match=r"7 patients are too few for 4 hospitals .* at most 3"):
        deal(pool(7), 4, PartitionConfig(kind="uniform"), seed=0)
