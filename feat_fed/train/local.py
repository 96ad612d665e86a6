"""One site's part in one round: weights in, better weights out.

Nothing here reads a file, a clock of the study or a message; the same job on the same clips
gives the same bytes on the same machine with the same number of threads (on a CPU; CUDA's
convolutions may sum in another order).

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from feat_fed.config import DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.diffusion import Schedule, drop_labels, training_losses, with_labels
from feat_fed.errors import TrainingError
from feat_fed.model import FEAT
from feat_fed.train.device import cpu_threads, resolve_device
from feat_fed.train.engine import Engine, LossFunction, StepOutcome, open_engine
from feat_fed.train.heldout import heldout_loss
from feat_fed.train.seeds import derive_seed
from feat_fed.train.weights import load_weights


class TrainingClips(Protocol):
    """Latent clips to learn from; :class:`feat_fed.codec.LatentWindows` is one."""

    @property
    def num_clips(self) -> int:
        """Clips at the site: its weight in the federated average."""

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Return z_BFCHW, a function of its arguments alone."""


class HeldoutClips(Protocol):
    """Latent clips of patients that nobody trains on."""

    def fixed(self, num_clips: int) -> Tensor:
        """Return z_NFCHW: the same clips at every call, at most ``num_clips``."""


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """Score these weights at this site."""

    model: FEATConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    weights: Mapping[str, Tensor]
    device: str = "auto"
    threads: int = 0
    """CPU threads; 0: torch's own choice."""
    label: int | None = None
    """Class of the site's clips; None for a model without classes."""


@dataclass(frozen=True, kw_only=True)
class RoundJob(EvaluationJob):
    """Train these weights for ``training.local_steps`` at this site."""

    seed: int
    """Of this study, site and round: :func:`~feat_fed.train.seeds.derive_seed`."""
    first_step: int
    """Optimiser steps of the study before this round, from which the warm-up goes on."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round at a site gives back; all but the weights are plain numbers."""

    weights: dict[str, Tensor]
    train_loss: float
    """Mean of the total loss over the round's steps."""
    heldout_loss: float | None
    """Of the weights received, before training; None without held-out clips."""
    steps: int
    examples: int
    seconds: float


@dataclass(frozen=True)
class StepProgress:
    """How far the round is, after a step."""

    step: int
    steps: int
    loss: float
    clips_per_sec: float


def train_round(
    job: RoundJob,
    *,
    train: TrainingClips,
    heldout: HeldoutClips | None,
    progress: Callable[[StepProgress], None],
) -> RoundResult:
    """Score the received weights, train them, and return the new ones.

    Raises
    ------
    CheckpointError
        If the weights do not fit the model.
    ConfigError
        If the device is not there.
    TrainingError
        If the loss or its gradient is not finite.
    """
    started_sec = time.perf_counter()
    with cpu_threads(job.threads):
        model = _received_model(job)
        score = None if heldout is None else _score(job, model, heldout)
        with closing(open_engine(model, job.training)) as engine:
            losses = _train(job, engine, train, progress)
            weights = engine.weights()
    return RoundResult(
        weights=weights,
        train_loss=math.fsum(losses) / len(losses),
        heldout_loss=score,
        steps=len(losses),
        examples=train.num_clips,
        seconds=time.perf_counter() - started_sec,
    )


def evaluate_round(job: EvaluationJob, *, heldout: HeldoutClips) -> float:
    """Return the held-out loss of the weights; :func:`train_round` without the training."""
    with cpu_threads(job.threads):
        return _score(job, _received_model(job), heldout)


def warmed_up(learning_rate: float, *, step: int, warmup_steps: int) -> float:
    """Return the learning rate of the study's optimiser step ``step`` (from 0): a linear rise."""
    return learning_rate * min(1.0, (step + 1) / max(1, warmup_steps))


def _received_model(job: EvaluationJob) -> FEAT:
    model = FEAT(job.model).to(resolve_device(job.device))
    load_weights(model, job.weights)
    return model


def _score(job: EvaluationJob, model: nn.Module, heldout: HeldoutClips) -> float:
    return heldout_loss(
        model,
        heldout.fixed(job.training.heldout_clips),
        diffusion=job.diffusion,
        batch_size=job.training.batch_size,
        label=job.label,
    )


def _train(
    job: RoundJob,
    engine: Engine,
    train: TrainingClips,
    progress: Callable[[StepProgress], None],
) -> list[float]:
    """Take the round's steps; return their losses."""
    training = job.training
    device = resolve_device(job.device)
    schedule = Schedule.linear(job.diffusion).to(device)
    started_sec = time.perf_counter()
    losses: list[float] = []
    for step in range(job.first_step, job.first_step + training.local_steps):
        engine.set_learning_rate(
            warmed_up(training.learning_rate, step=step, warmup_steps=training.warmup_steps)
        )
        z_BFCHW = train.batch(job.seed, step, training.batch_size).to(device).float()
        outcome = engine.step(_loss_of(z_BFCHW, schedule, job, step=step))
        losses.append(_finite(outcome, step=len(losses) + 1))
        progress(
            StepProgress(
                step=len(losses),
                steps=training.local_steps,
                loss=outcome.loss,
                clips_per_sec=len(losses)
                * training.batch_size
                / (time.perf_counter() - started_sec),
            )
        )
    return losses


def _loss_of(z_BFCHW: Tensor, schedule: Schedule, job: RoundJob, *, step: int) -> LossFunction:
    """Draw timesteps (uniform, one a clip), noise and which clips lose their class.

    On the CPU, so that they are the same for every device.
    """
    generator = torch.Generator().manual_seed(derive_seed("diffusion", job.seed, step))
    t_B = torch.randint(len(schedule), (len(z_BFCHW),), generator=generator)
    noise_BFCHW = torch.randn(z_BFCHW.shape, generator=generator)
    t_B, noise_BFCHW = t_B.to(z_BFCHW.device), noise_BFCHW.to(z_BFCHW.device)
    labels_B = None
    if job.label is not None:
        labels_B = drop_labels(
            torch.full_like(t_B, job.label),
            probability=job.training.label_dropout,
            null_label=job.model.num_classes,
            generator=generator,
        )

    def loss_of(model: nn.Module) -> Tensor:
        network = with_labels(model, labels_B)
        return training_losses(network, z_BFCHW, t_B, noise_BFCHW, schedule).total_B.mean()

    return loss_of


def _finite(outcome: StepOutcome, *, step: int) -> float:
    if math.isfinite(outcome.loss) and math.isfinite(outcome.gradient_norm):
        return outcome.loss
    raise TrainingError(
        f"step {step} of the round has loss {outcome.loss} and gradient norm "
        f"{outcome.gradient_norm}; lower training.learning_rate, lengthen training.warmup_steps "
        "or set training.gradient_clip, and resume from the last round"
    )
