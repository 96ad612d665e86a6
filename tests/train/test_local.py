"""A round at a site, on a FEAT of some thousand weights and clips made of moving waves."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from feat_fed.config import ComputeConfig, DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.errors import CheckpointError, TrainingError
from feat_fed.model import FEAT
from feat_fed.train import (
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    derive_seed,
    evaluate_round,
    train_round,
    weights_of,
)
from feat_fed.train.steps import planned_steps

MODEL = FEATConfig(in_channels=2, hidden_size=16, num_trios=1, num_heads=2, mlp_ratio=2.0)


class Waves:
    """Clips of one family, so that a small network can learn them."""

    def __init__(self, seed: int, num_clips: int, scale: float = 1.0) -> None:
        phase = 6.3 * torch.rand(num_clips, generator=torch.Generator().manual_seed(seed))
        frame, channel, row, column = torch.meshgrid(
            *(torch.arange(float(n)) for n in (3, 2, 8, 8)), indexing="ij"
        )
        angle = 0.8 * (row + column) + 0.5 * frame + channel
        self.z_NFCHW = scale * torch.sin(angle + phase[:, None, None, None, None])
        self.num_clips = num_clips

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, step))
        return self.z_NFCHW[torch.randint(self.num_clips, (batch_size,), generator=generator)]

    def fixed(self, num_clips: int) -> Tensor:
        return self.z_NFCHW[:num_clips]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return weights_of(FEAT(MODEL))


@pytest.fixture
def job(weights: dict[str, Tensor]) -> RoundJob:
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig(),
        training=TrainingConfig(engine="torch", local_steps=4, batch_size=3, learning_rate=1e-3),
        weights=weights,
        compute=ComputeConfig(device="cpu", threads=1),
        seed=7,
        first_step=0,
        total_steps=100,
    )


def run(job: RoundJob, clips: Waves | None = None) -> RoundResult:
    return train_round(job, train=clips or Waves(1, 8), heldout=Waves(2, 4), hooks=RoundHooks())


def with_training(job: RoundJob, **changes: object) -> RoundJob:
    return replace(job, training=job.training.model_copy(update=changes))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_a_round_replays_to_the_same_bytes_on_either_engine(job: RoundJob) -> None:
    first = run(job)
    torch.manual_seed(99)  # the global generator has no say
    again = run(job)
    deepspeed = run(with_training(job, engine="deepspeed"))
    for other in (again, deepspeed):
        assert same(other.weights, first.weights)
        assert (other.train_loss, other.heldout_loss) == (first.train_loss, first.heldout_loss)
    assert not same(run(replace(job, seed=8)).weights, first.weights)


def test_a_round_reports_what_it_did_and_leaves_the_job_alone(job: RoundJob) -> None:
    before = {name: tensor.clone() for name, tensor in job.weights.items()}
    seen: list[StepProgress] = []
    result = train_round(
        job, train=Waves(1, 8), heldout=None, hooks=RoundHooks(progress=seen.append)
    )
    assert same(before, dict(job.weights))
    assert not same(before, result.weights)
    assert (result.steps, result.examples, result.heldout_loss) == (4, 8, None)
    assert [each.step for each in seen] == [1, 2, 3, 4]
    assert result.train_loss == pytest.approx(sum(each.loss for each in seen) / 4)
    assert all(each.steps == 4 and each.clips_per_sec > 0 for each in seen)


def test_the_received_weights_are_scored_before_training(job: RoundJob) -> None:
    result = run(job)
    assert result.heldout_loss == evaluate_round(job, heldout=Waves(2, 4))
    after = evaluate_round(replace(job, weights=result.weights), heldout=Waves(2, 4))
    assert after != result.heldout_loss


def test_the_model_learns(job: RoundJob) -> None:
    result = run(with_training(job, local_steps=80, batch_size=8, learning_rate=1e-2))
    after = evaluate_round(replace(job, weights=result.weights), heldout=Waves(2, 4))
    assert result.heldout_loss is not None
    assert after < 0.2 * result.heldout_loss


def test_warm_up_goes_on_where_the_study_stands(job: RoundJob) -> None:
    """Two rounds of a study warm up like one; the optimiser is fresh in each."""
    cold = with_training(job, local_steps=1, warmup_steps=1000)
    moved = {
        first_step: max(
            float((weight - job.weights[name]).abs().max())
            for name, weight in run(replace(cold, first_step=first_step)).weights.items()
        )
        for first_step in (0, 499, 999, 5000)
    }
    # A first step of AdamW moves the weights by the learning rate.
    assert list(moved.values()) == pytest.approx([1e-6, 5e-4, 1e-3, 1e-3], rel=0.02)


class Spoilt(Waves):
    """Some of its batches are not numbers."""

    def __init__(self, *bad_steps: int) -> None:
        super().__init__(1, 8)
        self.bad_steps = bad_steps

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        factor = float("nan") if step in self.bad_steps else 1
        return super().batch(seed, step, batch_size) * factor


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_too_many_losses_that_are_not_finite_stop_the_round(job: RoundJob, engine: str) -> None:
    job = with_training(replace(job, first_step=10), engine=engine, local_steps=9)
    with pytest.raises(TrainingError, match=r"step 8 .* 3 were skipped .* lower training.learning"):
        run(job, Spoilt(12, 13, 15, 17))
    assert run(job).steps == 9, "the process can go on"


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_skipped_step_changes_nothing_but_the_learning_rate_after_it(
    job: RoundJob, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The round goes on as one that never had that step, at half the rate from there on."""
    job = with_training(replace(job, first_step=1), engine=engine, local_steps=3)
    result = run(job, Spoilt(1))
    assert (result.steps, result.skipped_steps) == (2, 1)
    assert "step 1 of the round has loss nan" in caplog.text
    halved = with_training(
        replace(job, first_step=2), local_steps=2, learning_rate=job.training.learning_rate / 2
    )
    assert same(result.weights, run(halved).weights)


def test_a_round_of_skipped_steps_alone_is_an_error(job: RoundJob) -> None:
    with pytest.raises(TrainingError, match="all 2 steps"):
        run(with_training(job, local_steps=2), Spoilt(0, 1))


def test_weights_that_the_last_step_ruined_are_not_given_back(job: RoundJob) -> None:
    with pytest.raises(TrainingError, match="not finite after the round"):
        run(with_training(job, local_steps=1, learning_rate=1e38, weight_decay=1e3))


def test_the_first_limit_ends_the_round(job: RoundJob) -> None:
    def steps(**changes: object) -> int:
        return planned_steps(with_training(job, **changes).training, num_clips=8)

    assert steps(local_steps=4) == 4
    assert steps(local_steps=4, local_epochs=1) == 3, "8 clips are 2 2/3 batches of 3"
    assert steps(local_steps=4, local_epochs=0.01) == 1
    assert steps(local_steps=2, local_epochs=9) == 2
    assert run(with_training(job, local_epochs=1)).steps == 3
    assert run(with_training(job, local_minutes=1e-9)).steps == 1


def test_held_out_clips_that_overflow_are_an_error(job: RoundJob) -> None:
    with pytest.raises(TrainingError, match="held-out loss"):
        evaluate_round(job, heldout=Waves(2, 4, scale=float("inf")))


def spoilt_weights(weights: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], str]]:
    name = "patch.weight"
    yield {key: value for key, value in weights.items() if key != name}, f"{name} missing"
    yield weights | {"extra": torch.zeros(1)}, "extra foreign"
    yield weights | {name: weights[name][:1]}, "has shape"
    yield weights | {name: weights[name].long()}, "torch.int64"
    yield weights | {name: weights[name] * float("inf")}, "not finite"


def test_weights_that_do_not_fit_are_named(job: RoundJob, weights: dict[str, Tensor]) -> None:
    for spoilt, message in spoilt_weights(weights):
        with pytest.raises(CheckpointError, match=message):
            run(replace(job, weights=spoilt))
