"""Updates alone against what they started from, and among each other."""

import math

import pytest
import torch
from torch import Tensor

from feat_fed.config import ScreeningConfig, TrainingConfig
from feat_fed.errors import ProtocolError
from feat_fed.wire import digest_of_buckets
from feat_fed_server.screening import (
    Peer,
    log_norm,
    refused_again,
    robust_z,
    screen_alone,
    screen_together,
)

TRAINING = TrainingConfig(learning_rate=0.01, local_steps=10)
RECEIVED = {"a": torch.tensor([1.0, -2.0]), "b": torch.zeros(3), "n": torch.tensor(7)}


def alone(changes: dict[str, Tensor], *, max_move: float | None = 10.0, rounds: int = 1) -> float:
    return screen_alone(
        {**RECEIVED, **changes},
        RECEIVED,
        screening=ScreeningConfig(max_move=max_move),
        training=TRAINING,
        rounds=rounds,
    )


def test_an_update_has_its_norm_over_the_floats() -> None:
    changes = {"a": torch.tensor([1.3, -1.6]), "n": torch.tensor(900)}
    assert alone(changes) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_measured_exactly(dtype: torch.dtype) -> None:
    received = {"a": torch.full((4096,), 256.0, dtype=dtype)}
    moved = {"a": torch.full((4096,), 258.0, dtype=dtype)}
    screening = ScreeningConfig(max_move=None)
    norm = screen_alone(moved, received, screening=screening, training=TRAINING)
    assert norm == 128.0


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"b": torch.tensor([0.0, 1.001, 0.0])}, "moved"),
        ({"b": torch.tensor([0.0, -1.001, 0.0])}, "moved"),
        ({"b": torch.tensor([0.0, 3e38, 0.0])}, "moved"),
        ({}, "unchanged"),
        ({"n": torch.tensor(8)}, "unchanged"),
    ],
)
def test_an_update_that_no_training_gives_is_refused(
    changes: dict[str, Tensor], refusal: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        alone(changes)
    assert caught.value.refusal == refusal


def test_a_weight_may_move_as_far_as_the_steps_and_the_rounding_allow() -> None:
    assert alone({"b": torch.tensor([0.0, 0.999, 0.0])}) == pytest.approx(0.999)
    assert alone({"a": torch.tensor([2.015, -2.0])}) == pytest.approx(1.015)  # 1 % of 2
    assert alone({"b": torch.tensor([0.0, 1.9, 0.0])}, rounds=2) == pytest.approx(1.9)


def test_adamw_gets_nowhere_near_the_bound() -> None:
    weight = torch.nn.Parameter(torch.zeros(1000))
    optimiser = torch.optim.AdamW([weight], lr=TRAINING.learning_rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(TRAINING.local_steps):
        # Nothing and then a shock: what moves Adam furthest in a step.
        shock = 1e6 * (step == TRAINING.local_steps - 1)
        weight.grad = torch.ones(1000) + shock * torch.randn(1000, generator=generator)
        optimiser.step()
    moved = float(weight.detach().abs().max())
    assert 0 < moved < 3.2 * TRAINING.learning_rate * TRAINING.local_steps


def test_all_zero_weights_are_refused_where_moves_are_not_bounded() -> None:
    zeros = {name: torch.zeros_like(each) for name, each in RECEIVED.items()}
    with pytest.raises(ProtocolError) as caught:
        alone(zeros, max_move=None)
    assert caught.value.refusal == "zero"
    with pytest.raises(ProtocolError, match="further than"):
        alone({"b": torch.tensor([0.0, 3e38, 3e38]), "a": torch.tensor([3e38, -3e38])})


def peers(norms: dict[str, float], weights: dict[str, float] | None = None) -> dict[str, Peer]:
    return {
        name: Peer(log_norm(norm, 1), (weights or {}).get(name, 1.0))
        for name, norm in norms.items()
    }


def codes(found: dict[str, ProtocolError]) -> dict[str, str]:
    return {name: each.refusal for name, each in found.items()}


def test_a_norm_far_above_the_others_is_refused_and_one_below_is_not() -> None:
    screening = ScreeningConfig()
    norms = {"a": 1.0, "b": 1.2, "c": 0.9, "d": 1e-6, "e": 40.0}
    assert codes(screen_together(peers(norms), screening=screening)) == {"e": "norm"}
    norms["e"] = 5.0  # a site with other data
    assert screen_together(peers(norms), screening=screening) == {}
    off = ScreeningConfig(max_norm_z=None)
    assert screen_together(peers(norms | {"e": 1e30}), screening=off) == {}


def test_two_that_are_far_above_do_not_hide_each_other() -> None:
    norms = {"a": 1.0, "b": 1.2, "c": 0.9, "d": 1.1, "e": 90.0, "f": 95.0}
    found = screen_together(peers(norms), screening=ScreeningConfig())
    assert codes(found) == {"e": "norm", "f": "norm"}


def test_few_others_are_joined_by_the_past() -> None:
    norms = {"a": 1.0, "b": 90.0}
    screening = ScreeningConfig()
    assert screen_together(peers(norms), screening=screening) == {}
    assert screen_together(peers(norms), screening=screening, past=[0.0]) == {}
    found = screen_together(peers(norms), screening=screening, past=[0.1, -0.1, 0.0])
    assert codes(found) == {"b": "norm"}


def test_a_short_round_is_comparable_with_a_long_one() -> None:
    assert log_norm(3.0, 9) == pytest.approx(log_norm(1.0, 1))
    assert math.isfinite(log_norm(1e-300, 0))


def test_a_giant_weight_is_refused_and_so_is_the_next_one() -> None:
    norms = {name: 1.0 for name in "abcd"}
    weights = {"a": 100.0, "b": 300.0, "c": 1e9, "d": 1e6}
    found = screen_together(peers(norms, weights), screening=ScreeningConfig())
    assert codes(found) == {"c": "share", "d": "share"}
    off = ScreeningConfig(max_weight_share=None)
    assert screen_together(peers(norms, weights), screening=off) == {}


def test_a_site_alone_has_all_the_weight() -> None:
    assert screen_together(peers({"a": 1.0}), screening=ScreeningConfig()) == {}


def test_a_robust_z_is_the_plain_one_of_a_normal_sample() -> None:
    sample = torch.randn(20001, generator=torch.Generator().manual_seed(0)).tolist()
    assert robust_z(3.0, sample) == pytest.approx(3.0, abs=0.1)
    assert robust_z(1.0, [0.0, 0.0, 0.0]) == pytest.approx(2.5)  # the floor


def test_what_was_sent_before_is_refused() -> None:
    one, other = digest_of_buckets([b"ab", b"c"]), digest_of_buckets([b"ab", b"d"])
    assert one != other
    refused_again(other, earlier={one: "a"}, now={})
    for earlier, now, refusal in (({one: "a"}, {}, "replay"), ({}, {one: "b"}, "copy")):
        with pytest.raises(ProtocolError) as caught:
            refused_again(one, earlier=earlier, now=now)
        assert caught.value.refusal == refusal
