"""One site's part in one round: weights in, better weights out.

Nothing here reads a file or a message; the same job on the same clips gives the same bytes on
the same machine with the same number of threads (on a CPU; CUDA's convolutions may sum in
another order), as long as ``training.local_minutes`` does not end it.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from feat_fed.config import TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import TrainingError
from feat_fed.model import FEAT
from feat_fed.protocol import EndedBy
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.device import cpu_threads, resolve_device
from feat_fed.train.engine import Engine, LossFunction, StepOutcome, open_engine
from feat_fed.train.fit import fitting_micro_batch
from feat_fed.train.heldout import heldout_loss
from feat_fed.train.jobs import (
    EvaluationJob,
    HeldoutClips,
    MidRound,
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    TrainingClips,
)
from feat_fed.train.learning_rate import learning_rate_at
from feat_fed.train.memory import peak_bytes
from feat_fed.train.precision import compute_in
from feat_fed.train.weights import load_weights

_log = logging.getLogger(__name__)

MAX_SKIPPED_STEPS = 3
"""Of a round, before it is given up."""

BACK_OFF = 0.5
"""What each skipped step multiplies the round's further learning rates by."""


def train_round(
    job: RoundJob,
    *,
    train: TrainingClips,
    heldout: HeldoutClips | None,
    hooks: RoundHooks,
) -> RoundResult:
    """Score the received weights, train them, and return the new ones.

    A round that is resumed (``job.resume``) gives the bytes of one that never stopped.

    Raises
    ------
    CheckpointError
        If the weights or the optimiser's state do not fit the model.
    ConfigError
        If the device is not there.
    TrainingError
        If too many losses or gradients are not finite, or memory is too short for one clip.
    """
    started_sec = time.perf_counter()
    compute, resume = job.compute, job.resume
    with cpu_threads(compute.threads):
        model = _received_model(job)
        model.gradient_checkpointing = compute.gradient_checkpointing
        micro_batch = _fitting_micro_batch(job, model, train)
        if resume is not None:
            score = resume.heldout_loss
        else:
            score = None if heldout is None else _score(job, model, heldout, micro_batch)
        # The engine takes the received weights for the anchor of FedProx.
        with closing(open_engine(model, job.training)) as engine:
            if resume is not None:
                engine.load_weights(resume.weights)
                engine.load_optimiser_state(resume.optimiser_state)
            elif job.optimiser_state is not None:
                engine.load_optimiser_state(job.optimiser_state)
            steps = _train(job, engine, train, micro_batch, score, hooks)
            weights = _finite(engine.weights())
            kept = job.training.optimiser_state == "kept"
            state = engine.optimiser_state() if kept else None
    return RoundResult(
        weights=weights,
        train_loss=math.fsum(steps.losses) / len(steps.losses),
        heldout_loss=score,
        steps=len(steps.losses),
        skipped_steps=steps.skipped,
        ended_by=steps.ended_by,
        examples=train.num_clips,
        seconds=(resume.seconds if resume else 0.0) + time.perf_counter() - started_sec,
        optimiser_state=state,
    )


def evaluate_round(job: EvaluationJob, *, heldout: HeldoutClips) -> float:
    """Return the held-out loss of the weights; :func:`train_round` without the training."""
    with cpu_threads(job.compute.threads):
        return _score(job, _received_model(job), heldout, _wanted_micro_batch(job))


def planned_steps(training: TrainingConfig, *, num_clips: int) -> int:
    """Return a round's optimiser steps: ``local_steps``, or fewer for ``local_epochs``.

    An epoch is as many draws as the site has clips; the last step of it may begin another.
    """
    if training.local_epochs is None:
        return training.local_steps
    epochs = math.ceil(training.local_epochs * num_clips / training.batch_size)
    return min(training.local_steps, epochs)


def _received_model(job: EvaluationJob) -> FEAT:
    model = FEAT(job.model).to(resolve_device(job.compute.device))
    load_weights(model, job.weights)
    return model


def _wanted_micro_batch(job: EvaluationJob) -> int:
    return min(job.training.batch_size, job.compute.micro_batch or job.training.batch_size)


def _fitting_micro_batch(job: RoundJob, model: FEAT, train: TrainingClips) -> int:
    """Try a step in the study's precision on a clip of the site, repeated as often as needed."""
    device = next(model.parameters()).device
    schedule = Schedule.linear(job.diffusion).to(device)
    z_1FCHW = train.batch(job.seed, job.first_step, 1).to(device).float()

    def loss_of(clips: int) -> LossFunction:
        z_BFCHW = z_1FCHW.expand(clips, *z_1FCHW.shape[1:])
        return losses_of_batch(z_BFCHW, schedule, job, step=0, micro_batch=clips)[0]

    compute_in(model, job.training.precision)
    fits = fitting_micro_batch(
        model,
        loss_of,
        wanted=job.resume.micro_batch if job.resume else _wanted_micro_batch(job),
        share=job.compute.memory_share,
        keeps_anchor=job.training.proximal_mu > 0,
    )
    compute_in(model, "fp32")
    return fits


def _score(job: EvaluationJob, model: nn.Module, heldout: HeldoutClips, batch_size: int) -> float:
    return heldout_loss(
        model,
        heldout.fixed(job.training.heldout_clips),
        diffusion=job.diffusion,
        batch_size=batch_size,
        label=job.label,
    )


@dataclass
class _Steps:
    """The round's steps so far."""

    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    ended_by: EndedBy = "steps"

    @property
    def done(self) -> int:
        return len(self.losses) + self.skipped

    def add(self, outcome: StepOutcome) -> None:
        """Count a step.

        Raises
        ------
        TrainingError
            If it was skipped and one more must not be.
        """
        if outcome.taken:
            self.losses.append(outcome.loss)
            return
        self.skipped += 1
        what = f"step {self.done} of the round has loss {outcome.loss} and gradient norm "
        what += f"{outcome.gradient_norm}"
        if self.skipped > MAX_SKIPPED_STEPS:
            raise TrainingError(f"{what}, and {MAX_SKIPPED_STEPS} were skipped before; {_MEND}")
        _log.warning("%s: skipped, and the learning rate goes down to half", what)


_MEND = (
    "lower training.learning_rate, lengthen training.warmup_steps or set training.gradient_clip, "
    "and resume from the last round"
)


def _train(
    job: RoundJob,
    engine: Engine,
    train: TrainingClips,
    micro_batch: int,
    heldout_loss: float | None,
    hooks: RoundHooks,
) -> _Steps:
    """Take the round's steps until the first of its limits."""
    training = job.training
    device = resolve_device(job.compute.device)
    schedule = Schedule.linear(job.diffusion).to(device)
    planned = planned_steps(training, num_clips=train.num_clips)
    steps, earlier_sec = _Steps(), 0.0
    if job.resume is not None:
        steps = _Steps(list(job.resume.losses), job.resume.skipped_steps)
        earlier_sec = job.resume.seconds
    started_sec, already = time.perf_counter(), steps.done

    def mid_round() -> MidRound:
        return MidRound(
            losses=tuple(steps.losses),
            skipped_steps=steps.skipped,
            seconds=earlier_sec + time.perf_counter() - started_sec,
            micro_batch=micro_batch,
            heldout_loss=heldout_loss,
            weights=engine.weights(),
            optimiser_state=engine.optimiser_state(),
        )

    while steps.done < planned:
        step = job.first_step + steps.done
        rate = learning_rate_at(training, step=step, total_steps=job.total_steps)
        rate *= BACK_OFF**steps.skipped
        engine.set_learning_rate(rate)
        z_BFCHW = train.batch(job.seed, step, training.batch_size).to(device).float()
        outcome = engine.step(
            losses_of_batch(z_BFCHW, schedule, job, step=step, micro_batch=micro_batch)
        )
        steps.add(outcome)
        seconds = time.perf_counter() - started_sec
        if outcome.taken:
            clips_per_sec = (steps.done - already) * training.batch_size / seconds
            hooks.progress(
                StepProgress(
                    step=steps.done,
                    steps=planned,
                    loss=outcome.loss,
                    clips_per_sec=clips_per_sec,
                    seconds=earlier_sec + seconds,
                    gradient_norm=outcome.gradient_norm,
                    learning_rate=rate,
                    memory_bytes=peak_bytes(device),
                )
            )
        minutes = (earlier_sec + seconds) / 60
        out_of_time = training.local_minutes is not None and minutes >= training.local_minutes
        ended_by = "minutes" if out_of_time else hooks.must_end()
        if ended_by and steps.losses and steps.done < planned:
            steps.ended_by = ended_by
            break
        hooks.keep(mid_round)
    if not steps.losses:
        raise TrainingError(f"all {steps.skipped} steps of the round were skipped; {_MEND}")
    return steps


def _finite(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights; after a last step that ruined them, raise."""
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"weight {name} is not finite after the round; {_MEND}")
    return dict(weights)
