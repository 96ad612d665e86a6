"""Clipped sums against a loop in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from feat_fed.config import PatientPrivacyConfig
from feat_fed.privacy.clipping import ClippedSum, norm_of

SHAPES = [(3, 5000), (2, 4, 3, 3), (7,), (1,)]


def vectors(number: int, scale: float = 1.0) -> list[list[Tensor]]:
    torch.manual_seed(0)
    return [[scale * torch.randn(shape) for shape in SHAPES] for _ in range(number)]


def by_a_loop(units: Sequence[Sequence[Tensor]], clip_norm: float) -> list[Tensor]:
    """Add up one number after the other, in float64."""
    total = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    for unit in units:
        numbers = [number for each in unit for number in each.double().flatten().tolist()]
        norm = math.sqrt(math.fsum(number * number for number in numbers))
        if math.isfinite(norm):
            for mine, each in zip(total, unit, strict=True):
                mine += each.double() * min(1.0, clip_norm / norm)
    return total


def summed(units: Sequence[Sequence[Tensor | None]], clip_norm: float) -> list[Tensor]:
    total = ClippedSum([torch.empty(shape) for shape in SHAPES], clip_norm=clip_norm)
    for unit in units:
        total.add(unit)
    return total.tensors


@pytest.mark.parametrize("clip_norm", [1e-6, 0.3, 122.0, 1e6])
def test_the_sum_is_that_of_a_loop_in_float64(clip_norm: float) -> None:
    """Some norms lie below the third bound, some above."""
    units = vectors(6)
    found, expected = summed(units, clip_norm), by_a_loop(units, clip_norm)
    length = math.sqrt(sum(float(each.square().sum()) for each in expected))
    difference = [a.double() - b for a, b in zip(found, expected, strict=True)]
    assert norm_of(difference) < 2e-5 * length


@given(
    scales=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=6),
    clip_norm=st.floats(1e-3, 1e3),
    gone=st.integers(0, 5),
    spoilt=st.sampled_from([1.0, math.nan, math.inf, -math.inf, 1e38]),
)
@settings(max_examples=60, deadline=None)
def test_no_vector_moves_the_sum_further_than_the_bound(
    scales: list[float], clip_norm: float, gone: int, spoilt: float
) -> None:
    units = [
        [each * scale for each in unit]
        for unit, scale in zip(vectors(len(scales)), scales, strict=True)
    ]
    gone %= len(units)
    units[gone][1][0, 0, 0, 0] *= spoilt
    others = [unit for place, unit in enumerate(units) if place != gone]
    both = zip(summed(units, clip_norm), summed(others, clip_norm), strict=True)
    moved = norm_of([a.double() - b.double() for a, b in both])
    assert moved <= clip_norm
    if not math.isfinite(spoilt):
        assert moved == 0.0


def test_a_vector_in_other_strides_is_the_same_vector() -> None:
    (unit,) = vectors(1, scale=4.0)
    turned = [
        each.to(memory_format=torch.channels_last) if each.ndim == 4 else each for each in unit
    ]
    turned[0] = unit[0].T.contiguous().T
    assert turned[1].stride() != unit[1].stride() and turned[0].stride() != unit[0].stride()
    for a, b in zip(summed([turned], 0.5), summed([unit], 0.5), strict=True):
        torch.testing.assert_close(a, b)
        assert a.is_contiguous()


def test_nothing_stands_for_zeros() -> None:
    (unit,) = vectors(1)
    with_zeros = [unit[0], torch.zeros(SHAPES[1]), unit[2], unit[3]]
    found = summed([[unit[0], None, unit[2], unit[3]]], 0.5)
    for a, b in zip(found, summed([with_zeros], 0.5), strict=True):
        assert torch.equal(a, b)
    total = ClippedSum([torch.empty(2)], clip_norm=1.0)
    assert total.add([None]) == 0.0 and total.add([torch.zeros(2)]) == 0.0
    assert total.tensors[0].tolist() == [0.0, 0.0]


def test_the_norm_is_exact_where_torchs_is_not() -> None:
    """Its float32 norm of a large tensor is off in the fourth digit."""
    torch.manual_seed(0)
    large = torch.randn(2**22 + 17)
    exact = float(torch.linalg.vector_norm(large.double()))
    assert norm_of([large]) == pytest.approx(exact, rel=1e-8)
    assert norm_of([]) == 0.0
    total = ClippedSum([large], clip_norm=1.0)
    assert total.add([large]) == pytest.approx(exact, rel=1e-8)
    assert 1 - 2e-5 < float(torch.linalg.vector_norm(total.tensors[0].double())) <= 1.0


def test_no_study_clips_to_less_than_float32_can_measure() -> None:
    # Of numbers whose squares float32 has not, the norm comes out too small, and the sum too long.
    long = torch.full((2_000_000,), 2.6e-23)
    long[0] = 1e-22
    short = ClippedSum([long], clip_norm=1e-22)
    short.add([long])
    assert float(short.tensors[0].double().norm()) > 100 * 1e-22
    least = PatientPrivacyConfig(noise_multiplier=1.0, clip_norm=1e-6).clip_norm
    held = ClippedSum([long], clip_norm=least)
    held.add([long])
    assert float(held.tensors[0].double().norm()) <= least
    for refused in (9e-7, 1.1e6):
        with pytest.raises(ValidationError, match="clip_norm"):
            PatientPrivacyConfig(noise_multiplier=1.0, clip_norm=refused)
