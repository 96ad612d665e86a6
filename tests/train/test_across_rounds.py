"""What goes from one round to the next: the optimiser's state, and a pull to the start."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from feat_fed.config import ComputeConfig, DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.errors import CheckpointError
from feat_fed.model import FEAT
from feat_fed.train import RoundHooks, RoundJob, RoundResult, open_engine, train_round, weights_of

MODEL = FEATConfig(in_channels=2, hidden_size=16, num_trios=1, num_heads=2, mlp_ratio=1)
ENGINES = ("torch", "deepspeed")


class Noise:
    num_clips = 8

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + step)
        return torch.randn(batch_size, 2, 2, 8, 8, generator=generator)


def job(**training: object) -> RoundJob:
    torch.manual_seed(0)
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig(),
        training=TrainingConfig.model_validate(
            {"engine": "torch", "local_steps": 6, "batch_size": 2, "learning_rate": 1e-3}
            | {"warmup_steps": 2, "learning_rate_schedule": "cosine", "optimiser_state": "kept"}
            | training
        ),
        weights=weights_of(FEAT(MODEL)),
        compute=ComputeConfig(device="cpu", threads=1),
        seed=3,
        first_step=0,
        total_steps=6,
    )


def trained(job: RoundJob) -> RoundResult:
    return train_round(job, train=Noise(), heldout=None, hooks=RoundHooks())


def in_rounds(whole: RoundJob, engines: tuple[str, ...], **changes: object) -> RoundResult:
    """Take the job's steps in as many rounds as engines, by one of them after the other."""
    steps = whole.training.local_steps // len(engines)
    task = whole
    for number, engine in enumerate(engines):
        training = {"engine": engine, "local_steps": steps, **changes}
        task = replace(
            task,
            training=whole.training.model_copy(update=training),
            first_step=number * steps,
        )
        result = trained(task)
        task = replace(task, weights=result.weights, optimiser_state=result.optimiser_state)
    return result


def same(left: dict[str, Tensor] | None, right: dict[str, Tensor] | None) -> bool:
    assert left is not None
    assert right is not None
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_rounds_with_a_kept_state_are_one_uninterrupted_round(first: str, second: str) -> None:
    whole = trained(job())
    result = in_rounds(job(), (first, second, first))
    assert same(result.weights, whole.weights)
    assert same(result.optimiser_state, whole.optimiser_state)


def test_a_reset_state_is_another_training_and_leaves_nothing() -> None:
    whole, reset = trained(job()), in_rounds(job(), ("torch", "torch"), optimiser_state="reset")
    assert not same(whole.weights, reset.weights)
    assert reset.optimiser_state is None


def spoilt(state: dict[str, Tensor]) -> dict[str, tuple[dict[str, Tensor], str]]:
    name = "exp_avg/patch.weight"
    return {
        "unknown": ({"step/x": torch.tensor(1.0)}, "1 unknown weights"),
        "nothing": ({}, "unknown"),
        "half": ({k: v for k, v in state.items() if k != name}, "each of"),
        "shape": (state | {name: state[name][:1]}, "another shape"),
        "nan": (state | {name: state[name] * torch.nan}, "not finite"),
    }


@pytest.mark.parametrize("fault", ["unknown", "nothing", "half", "shape", "nan"])
def test_a_state_that_does_not_fit_is_refused(fault: str) -> None:
    state = trained(job(local_steps=1)).optimiser_state
    assert state is not None
    wrong, message = spoilt(state)[fault]
    with pytest.raises(CheckpointError, match=message):
        trained(replace(job(), optimiser_state=wrong))


def quadratic(mu: float, engine: str) -> list[Tensor]:
    """Gradients that the engine steps along, for a loss of 3 w and a start at w = 2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    training = TrainingConfig.model_validate(
        {"engine": engine, "proximal_mu": mu, "gradient_clip": None, "learning_rate": 0.1}
    )
    with closing(open_engine(model, training)) as opened:
        # AdamW's first moment after a step is 0.9 m + 0.1 g.
        moments, gradients = [torch.zeros(1, 1)], []
        for _ in range(3):
            outcome = opened.step([lambda model: model(torch.tensor([[3.0]])).sum()])
            moments.append(opened.optimiser_state()["exp_avg/weight"])
            gradients.append((moments[-1] - 0.9 * moments[-2]) / 0.1)
            assert outcome.gradient_norm == pytest.approx(abs(gradients[-1].item()), rel=1e-4)
        gradients.append(opened.weights()["weight"])
    return gradients


@pytest.mark.parametrize("engine", ENGINES)
def test_the_proximal_pull_is_mu_times_the_distance(engine: str) -> None:
    first, second, third, _ = (each.item() for each in quadratic(0.5, engine))
    # Adam's first step is the learning rate; so is its second where gradients are alike.
    assert first == pytest.approx(3.0)
    assert second == pytest.approx(3.0 + 0.5 * -0.1, rel=1e-4)
    assert third == pytest.approx(3.0 + 0.5 * -0.2, rel=1e-3)
    assert [each.item() for each in quadratic(0.0, engine)[:3]] == pytest.approx([3.0] * 3)


def test_a_strong_pull_keeps_a_round_near_its_start() -> None:
    task = job(local_steps=20, learning_rate_schedule="constant")

    def distance(mu: float) -> float:
        training = task.training.model_copy(update={"proximal_mu": mu, "gradient_clip": None})
        result = trained(replace(task, training=training))
        return sum(
            float((result.weights[name] - each).square().sum())
            for name, each in task.weights.items()
        )

    assert distance(100.0) < 0.5 * distance(0.0)
