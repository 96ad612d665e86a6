"""Patients dealt out to hospitals: who gets whom is a matter of a seed, and of nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feat_fed.config import PartitionConfig
from feat_fed.errors import DataError
from feat_fed.simulate.patients import Patient

Hands = tuple[tuple[Patient, ...], ...]
"""The patients of each hospital; every patient is in one."""


def deal(
    patients: Sequence[Patient], hospitals: int, partition: PartitionConfig, *, seed: int
) -> Hands:
    """Share all patients out as the partition says, at least ``min_patients`` for each.

    Parameters
    ----------
    patients
        In an order that does not depend on the machine.
    partition
        Of another kind than ``folder``.
    seed
        Where the partition has none.

    Raises
    ------
    DataError
        If there are too few patients.
    """
    if len(patients) < hospitals * partition.min_patients:
        raise DataError(
            f"{len(patients)} patients are too few for {hospitals} hospitals of at least "
            f"{partition.min_patients} (partition.min_patients): ask for at most "
            f"{len(patients) // partition.min_patients}, or add patients; if there are more "
            "patients, patient_pattern or a manifest has to tell them apart"
        )
    rng = np.random.default_rng((seed if partition.seed is None else partition.seed, hospitals))
    shuffled = [patients[index] for index in rng.permutation(len(patients))]
    if partition.kind == "dirichlet":
        return _mixed(shuffled, _even(len(patients), hospitals), partition, rng)
    sizes = (
        _power_law(len(patients), hospitals, partition)
        if partition.kind == "power-law"
        else _even(len(patients), hospitals)
    )
    stops = np.cumsum(sizes)
    return tuple(
        tuple(shuffled[stop - size : stop]) for size, stop in zip(sizes, stops, strict=True)
    )


def _even(count: int, hospitals: int) -> list[int]:
    return [count // hospitals + (place < count % hospitals) for place in range(hospitals)]


def _power_law(count: int, hospitals: int, partition: PartitionConfig) -> list[int]:
    """Share what is beyond the minimum by rank ** -exponent, by largest remainders."""
    least = partition.min_patients
    weights = np.arange(1, hospitals + 1, dtype=np.float64) ** -partition.exponent
    wanted = weights / weights.sum() * count
    beyond = np.maximum(wanted - least, 0)
    left = count - hospitals * least
    shares = beyond / beyond.sum() * left if beyond.sum() else np.full(hospitals, left / hospitals)
    sizes = np.floor(shares).astype(int)
    order = np.argsort(sizes - shares, kind="stable")
    sizes[order[: left - sizes.sum()]] += 1
    return [int(each) + least for each in sizes]


def _mixed(
    shuffled: Sequence[Patient],
    sizes: Sequence[int],
    partition: PartitionConfig,
    rng: np.random.Generator,
) -> Hands:
    """Hsu et al., arXiv 1909.06335, section 3.1: a hospital's mix of labels is q ~ Dir(alpha p).

    p is the mix of all. Hospitals draw in turns, a patient each, without putting back, so that
    what is left at the end is not the last one's; a label that has run out is drawn no more.
    """
    left: defaultdict[str, list[Patient]] = defaultdict(list)
    for each in shuffled:
        left[each.label if partition.by == "label" else each.modality].append(each)
    labels = sorted(left)
    prior = np.array([len(left[label]) for label in labels]) / len(shuffled)
    mixes = _dirichlet(partition.alpha * prior, len(sizes), rng)
    hands: list[list[Patient]] = [[] for _ in sizes]
    for turn in range(max(sizes)):
        for hospital in np.flatnonzero(np.array(sizes) > turn):
            there = np.array([bool(left[label]) for label in labels])
            chances = np.where(there, mixes[hospital], 0.0)
            chances = chances if chances.sum() else np.where(there, prior, 0.0)
            label = labels[rng.choice(len(labels), p=chances / chances.sum())]
            hands[hospital].append(left[label].pop())
    return tuple(tuple(hand) for hand in hands)


def _dirichlet(
    alphas: npt.NDArray[np.float64], count: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return mixes, a row each; where all of a row is too small for a float, one label is all."""
    mixes = rng.dirichlet(np.maximum(alphas, np.finfo(np.float64).tiny), size=count)
    for row in np.flatnonzero(~np.isfinite(mixes).all(1) | (mixes.sum(1) == 0)):
        mixes[row] = np.eye(len(alphas))[rng.choice(len(alphas), p=alphas / alphas.sum())]
    return mixes
