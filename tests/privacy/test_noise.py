"""The noise against its distribution, in bounds that fail once in 10^9 runs at most."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from feat_fed.privacy.noise import GaussianNoise

NUMBER = 2**19 + 1
NEVER = 1e-10


def drawn(number: int, key: bytes | None = None, deviation: float = 1.0) -> Tensor:
    tensor = torch.zeros(number)
    GaussianNoise(key).add_to(tensor, standard_deviation=deviation)
    return tensor


@pytest.mark.parametrize("deviation", [1.0, 0.013, 250.0])
def test_the_variance_is_as_claimed(deviation: float) -> None:
    """The sum of squares is chi-square, the mean is normal."""
    noise = drawn(NUMBER, deviation=deviation).double() / deviation
    low, high = stats.chi2.interval(1 - NEVER, NUMBER)
    assert low < float(noise.square().sum()) < high
    assert abs(float(noise.mean())) < stats.norm.isf(NEVER / 2) / math.sqrt(NUMBER)


def test_the_numbers_are_normal_far_into_the_tails_and_independent() -> None:
    noise = drawn(NUMBER).double()
    assert stats.kstest(noise.numpy(), "norm").pvalue > NEVER
    for beyond in (3.0, 4.0):
        expected = NUMBER * 2 * stats.norm.sf(beyond)
        seen = int((noise.abs() > beyond).sum())
        assert stats.poisson.ppf(NEVER, expected) <= seen <= stats.poisson.isf(NEVER, expected)
    for lag in (1, 2, 2**15, 2**16):  # both numbers of a pair lie half a chunk apart
        products = noise[:-lag] * noise[lag:]
        assert abs(float(products.mean())) < 7 / math.sqrt(len(products)), lag


def test_a_key_gives_one_stream_however_it_is_cut() -> None:
    key = bytes(range(32))
    whole = drawn(3 * 2**16 + 6, key)
    stream, parts = GaussianNoise(key), [torch.zeros(2**16), torch.zeros(2**16, 2)]
    for part in parts:
        stream.add_to(part, standard_deviation=1.0)
    assert torch.equal(torch.cat([each.flatten() for each in parts]), whole[: 3 * 2**16])
    assert torch.equal(drawn(9, key), drawn(9, key))


def test_without_a_key_no_two_streams_are_alike_and_seeds_have_no_say() -> None:
    torch.manual_seed(0)
    first = drawn(8)
    torch.manual_seed(0)
    assert not torch.equal(first, drawn(8))


def test_noise_is_added_in_place_in_the_tensors_own_type() -> None:
    key = bytes(32)
    tensor = torch.full((3, 5), 2.0, dtype=torch.float64)
    GaussianNoise(key).add_to(tensor, standard_deviation=0.5)
    noise = torch.zeros(15, dtype=torch.float64)
    GaussianNoise(key).add_to(noise, standard_deviation=0.5)
    torch.testing.assert_close(tensor, 2.0 + noise.view(3, 5))
    GaussianNoise(key).add_to(torch.zeros(0), standard_deviation=1.0)
