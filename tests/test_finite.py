"""What is not a number is found wherever it is."""

from __future__ import annotations

import math

import pytest
import torch

from feat_fed.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 500, 999])
def test_one_bad_value_is_found(dtype: torch.dtype, bad: float, where: int) -> None:
    x = torch.randn(10, 100).to(dtype)
    assert all_finite(x)
    x.view(-1)[where] = bad
    assert not all_finite(x)
    assert not all_finite(x.T)


def test_the_largest_numbers_are_finite() -> None:
    most = torch.finfo(torch.float32).max
    assert all_finite(torch.tensor([most, -most]))


def test_what_has_no_infinity_or_no_value_is_finite() -> None:
    for x in (torch.empty(0), torch.tensor([1, 2]), torch.tensor([True]), torch.tensor(1.0)):
        assert all_finite(x)
    assert not all_finite(torch.tensor(math.nan))
