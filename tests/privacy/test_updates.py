"""A site's update as one vector, and its bound."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from feat_fed.errors import TrainingError
from feat_fed.privacy.updates import clip_factor, clipped_update, move_norm

RECEIVED = {
    "w": torch.tensor([1.0, -2.0, 3.0]),
    "half": torch.zeros(2, dtype=torch.float16),
    "count": torch.tensor([4]),
    "scale": torch.tensor(2.0),
}


def trained(length: float) -> dict[str, Tensor]:
    """Weights that have moved by this norm: 3/5 of it in one tensor, 4/5 in another."""
    return {
        "w": RECEIVED["w"] + torch.tensor([0.0, 0.6 * length, 0.0]),
        "half": RECEIVED["half"],
        "count": torch.tensor([9]),
        "scale": RECEIVED["scale"] - 0.8 * length,
    }


def test_a_long_update_keeps_its_direction_and_gets_the_bounds_length() -> None:
    clipped, within = clipped_update(trained(5.0), RECEIVED, clip_norm=2.0)
    assert not within
    assert move_norm(clipped, RECEIVED) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(clipped["w"] - RECEIVED["w"], [0.0, 1.2, 0.0], atol=1e-5)
    assert float(clipped["scale"] - RECEIVED["scale"]) == pytest.approx(-1.6, abs=1e-5)
    assert clipped["count"].tolist() == [9]


@pytest.mark.parametrize("length", [0.0, 1.0, 1.9])
def test_a_short_update_is_sent_bit_for_bit(length: float) -> None:
    sent = trained(length)
    clipped, within = clipped_update(sent, RECEIVED, clip_norm=2.0)
    assert within
    assert all(torch.equal(clipped[name], sent[name]) for name in sent)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_not_clipped(bad: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        clipped_update(trained(bad), RECEIVED, clip_norm=2.0)


@given(norm=st.floats(0, 1e30, allow_nan=False), clip_norm=st.floats(1e-12, 1e12, allow_nan=False))
def test_the_factor_leaves_room_for_the_rounding_of_the_norm(norm: float, clip_norm: float) -> None:
    factor = clip_factor(norm, clip_norm=clip_norm)
    assert 0 < factor <= 1
    assert factor * norm * (1 + 5e-7) <= clip_norm
    if norm < clip_norm * (1 - 2e-6):
        assert factor == 1


@pytest.mark.parametrize("clip_norm", [1e-3, 1e-5, 3e-6, 1e-9])
def test_rounding_to_the_weights_type_breaks_no_bound(clip_norm: float) -> None:
    # Near 1 float32 has steps of 1.2e-7: a clipped move of 0.75 of one is rounded up to all of it.
    before = {"w": torch.ones(1000)}
    after = {"w": before["w"] + torch.rand(1000, generator=torch.Generator().manual_seed(0))}
    clipped, within = clipped_update(after, before, clip_norm=clip_norm)
    assert not within
    assert move_norm(clipped, before) <= clip_norm
    if clip_norm >= 1e-3:
        assert move_norm(clipped, before) >= 0.99 * clip_norm
