"""The steps of a round: what each is made of, and what ends the round.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import nn

from feat_fed.config import TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import TrainingError
from feat_fed.learning_rate import learning_rate_at
from feat_fed.protocol import EndedBy
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.engine import Engine, StepOutcome
from feat_fed.train.faults import is_short_of_memory
from feat_fed.train.jobs import MidRound, RoundHooks, RoundJob, StepProgress, TrainingClips
from feat_fed.train.memory import peak_bytes
from feat_fed.train.peers import Peers
from feat_fed.train.private import PrivateSteps

_log = logging.getLogger(__name__)

MAX_SKIPPED_STEPS = 3
"""Of a round, before it is given up."""

BACK_OFF = 0.5
"""What each skipped step multiplies the round's further learning rates by."""

MEND = (
    "lower training.learning_rate, lengthen training.warmup_steps or set training.gradient_clip, "
    "and resume from the last round"
)

_ENDS: tuple[EndedBy, ...] = get_args(EndedBy)


def planned_steps(training: TrainingConfig, *, num_clips: int) -> int:
    """Return a round's optimiser steps: ``local_steps``, or fewer for ``local_epochs``.

    An epoch is as many draws as the site has clips; the last step of it may begin another.
    """
    if training.local_epochs is None:
        return training.local_steps
    epochs = math.ceil(training.local_epochs * num_clips / training.batch_size)
    return min(training.local_steps, epochs)


@dataclass
class Steps:
    """The round's steps so far."""

    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    ended_by: EndedBy = "steps"

    @property
    def done(self) -> int:
        """Steps taken or skipped."""
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
            raise TrainingError(f"{what}, and {MAX_SKIPPED_STEPS} were skipped before; {MEND}")
        _log.warning("%s: skipped, and the learning rate goes down to half", what)


class RoundSteps:
    """Takes a round's steps, on one device or as one of several ``peers``.

    Parameters
    ----------
    micro_batch
        Clips at once; where a step finds too little memory for them, half of it from there on.
    heldout_loss
        Of the received weights, for a checkpoint to remember.
    """

    def __init__(
        self,
        job: RoundJob,
        model: nn.Module,
        engine: Engine,
        train: TrainingClips,
        hooks: RoundHooks,
        peers: Peers,
        *,
        micro_batch: int,
        heldout_loss: float | None,
    ) -> None:
        self._job, self._model, self._engine, self._train = job, model, engine, train
        self._hooks, self._peers = hooks, peers
        self._micro_batch, self._heldout_loss = micro_batch, heldout_loss
        self._device = next(model.parameters()).device
        self._schedule = Schedule.linear(job.diffusion).to(self._device)
        self._private = None
        if job.privacy is not None:
            self._private = PrivateSteps(
                job, job.privacy, model, engine, train, peers=peers, alive=hooks.alive
            )
        self._steps, self._earlier_sec, self._rate = Steps(), 0.0, 0.0
        if job.resume is not None:
            self._steps = Steps(list(job.resume.losses), job.resume.skipped_steps)
            self._earlier_sec = job.resume.seconds

    def take(self) -> Steps:
        """Take steps until the first of the round's limits.

        Raises
        ------
        TrainingError
            If too many are skipped.
        """
        steps, training, hooks = self._steps, self._job.training, self._hooks
        clips = self._private.clips if self._private else training.batch_size
        planned = planned_steps(training, num_clips=self._train.num_clips)
        already, self._started_sec = steps.done, time.perf_counter()
        while steps.done < planned:
            outcome = self._step()
            steps.add(outcome)
            if outcome.taken:
                seconds = time.perf_counter() - self._started_sec
                clips_per_sec = (steps.done - already) * clips / seconds
                hooks.progress(
                    StepProgress(
                        step=steps.done,
                        steps=planned,
                        # By chance nobody may take part in a private step.
                        loss=None if self._private and not outcome.loss else outcome.loss,
                        clips_per_sec=clips_per_sec,
                        seconds=self._seconds(),
                        gradient_norm=outcome.gradient_norm,
                        learning_rate=self._rate,
                        memory_bytes=peak_bytes(self._device),
                    )
                )
            ended_by = self._ended_by()
            if ended_by and steps.losses and steps.done < planned:
                steps.ended_by = ended_by
                break
            hooks.keep(self._mid_round)
        if not steps.losses:
            raise TrainingError(f"all {steps.skipped} steps of the round were skipped; {MEND}")
        return steps

    def _step(self) -> StepOutcome:
        """Take the next step, in smaller parts if it must be."""
        job, steps = self._job, self._steps
        step = job.first_step + steps.done
        rate = learning_rate_at(job.training, step=step, total_steps=job.total_steps)
        self._rate = rate * BACK_OFF**steps.skipped
        self._engine.set_learning_rate(self._rate)
        take = self._private.begin(step) if self._private else self._begin(step)
        while True:
            try:
                return take(self._micro_batch)
            except (RuntimeError, MemoryError) as error:
                # Others may be in the midst of an exchange with this process: all begin again.
                if not is_short_of_memory(error) or self._micro_batch == 1 or self._peers.size > 1:
                    raise
            # Here the error, and all that its traceback holds, has gone.
            self._model.zero_grad()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self._micro_batch = (self._micro_batch + 1) // 2
            _log.warning(
                "memory ran out in step %d: from it on, %d clips at once",
                self._steps.done + 1,
                self._micro_batch,
            )

    def _begin(self, step: int) -> Callable[[int], StepOutcome]:
        """Return what takes a step without privacy, with so many clips at once."""
        job = self._job

        def take(micro_batch: int) -> StepOutcome:
            z_BFCHW = self._train.batch(job.seed, step, job.training.batch_size)
            parts = losses_of_batch(
                z_BFCHW.to(self._device).float(),
                self._schedule,
                job,
                step=step,
                micro_batch=micro_batch,
                peers=self._peers,
                begun=self._hooks.alive,
            )
            return self._engine.step(parts)

        return take

    def _ended_by(self) -> EndedBy | None:
        """Return what ends the round, as the first process sees it."""
        limit = self._job.training.local_minutes
        out_of_time = limit is not None and self._seconds() / 60 >= limit
        ended_by = "minutes" if out_of_time else self._hooks.must_end()
        number = self._peers.of_first(_ENDS.index(ended_by) if ended_by else -1)
        return _ENDS[number] if number >= 0 else None

    def _seconds(self) -> float:
        return self._earlier_sec + time.perf_counter() - self._started_sec

    def _mid_round(self) -> MidRound:
        return MidRound(
            losses=tuple(self._steps.losses),
            skipped_steps=self._steps.skipped,
            seconds=self._seconds(),
            micro_batch=self._micro_batch,
            heldout_loss=self._heldout_loss,
            weights=self._engine.weights(),
            optimiser_state=self._engine.optimiser_state(),
        )
