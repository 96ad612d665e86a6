"""The DeepSpeed engine against the torch engine, bit for bit, and what it leaves behind."""

from collections.abc import Callable
from contextlib import closing

import psutil
import pytest
import torch
from torch import Tensor, distributed, nn

from feat_fed.config import TrainingConfig
from feat_fed.errors import TrainingError
from feat_fed.train import open_engine, weights_of

STEPS = 6


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.LayerNorm(32), nn.Linear(32, 12))


def loss_of(step: int) -> Callable[[nn.Module], Tensor]:
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(step))
    return lambda model: (model(x) - 3 * x).square().mean()


def run(training: TrainingConfig) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
    with closing(open_engine(small_model(), training)) as engine:
        outcomes = []
        for step in range(STEPS):
            engine.set_learning_rate(training.learning_rate * (step + 1) / STEPS)
            outcome = engine.step([loss_of(step)])
            outcomes.append((outcome.loss, outcome.gradient_norm))
        return outcomes, engine.weights()


@pytest.mark.parametrize("gradient_clip", [None, 0.5, 2.0])
def test_deepspeed_gives_the_bits_of_torch(gradient_clip: float | None) -> None:
    training = TrainingConfig(
        engine="torch", learning_rate=1e-2, weight_decay=0.1, gradient_clip=gradient_clip
    )
    outcomes, weights = run(training)
    assert min(norm for _, norm in outcomes) > 2.0, "the clip must bite"
    ds_outcomes, ds_weights = run(training.model_copy(update={"engine": "deepspeed"}))
    assert ds_outcomes == outcomes
    assert ds_weights.keys() == weights.keys()
    assert all(torch.equal(ds_weights[name], weights[name]) for name in weights)


def test_clipping_and_decay_take_part() -> None:
    plain = TrainingConfig(engine="torch", learning_rate=1e-2, gradient_clip=None)
    for change in ({"gradient_clip": 0.5}, {"weight_decay": 0.1}):
        _, weights = run(plain)
        _, changed = run(plain.model_copy(update=change))
        assert not torch.equal(weights["0.weight"], changed["0.weight"])


def test_torch_engine_is_adamw_as_written_down() -> None:
    """One step of AdamW from zero moments moves each weight by lr (sign(g) + decay w)."""
    training = TrainingConfig(
        engine="torch", learning_rate=1e-3, weight_decay=0.1, gradient_clip=None
    )
    model = small_model()
    before = weights_of(model)
    with closing(open_engine(model, training)) as engine:
        engine.step([loss_of(0)])
        after = engine.weights()
    gradient = {name: each.grad for name, each in model.named_parameters()}
    for name, weight in before.items():
        g = gradient[name]
        assert g is not None
        expected = weight * (1 - 1e-3 * 0.1) - 1e-3 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)


def test_deepspeed_leaves_no_group_and_no_word_behind(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        run(TrainingConfig(engine="deepspeed"))
        assert not distributed.is_initialized()
    assert capfd.readouterr() == ("", "")


def test_deepspeed_listens_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with closing(open_engine(small_model(), TrainingConfig(engine="deepspeed"))) as engine:
        engine.step([loss_of(0)])
        hosts = {each.laddr.ip for each in psutil.Process().net_connections() if each.laddr}
    assert hosts <= {"127.0.0.1", "::1"}


def test_a_second_deepspeed_engine_is_refused_and_the_first_goes_on() -> None:
    training = TrainingConfig(engine="deepspeed")
    with closing(open_engine(small_model(), training)) as engine:
        with pytest.raises(TrainingError, match="close that engine first"):
            open_engine(small_model(), training)
        assert engine.step([loss_of(0)]).loss > 0
