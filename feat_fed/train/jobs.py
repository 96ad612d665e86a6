"""What a site is asked to do, what it does it with, and what it gives back.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from feat_fed.config import (
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    PatientPrivacyConfig,
    TrainingConfig,
)
from feat_fed.protocol import EndedBy


class TrainingClips(Protocol):
    """Latent clips to learn from; :class:`feat_fed.codec.LatentWindows` is one."""

    @property
    def num_clips(self) -> int:
        """Clips at the site: its weight in the federated average."""

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Return z_BFCHW, a function of its arguments alone."""

    @property
    def patients(self) -> Sequence[str]:
        """Pseudonyms of those who are on the clips, for training with privacy."""

    def windows_of(self, patient: str, number: int, seed: int) -> Tensor:
        """Return z_NFCHW, a function of its arguments and of this patient's clips alone."""


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
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    label: int | None = None
    """Class of the site's clips; None for a model without classes."""


@dataclass(frozen=True, kw_only=True)
class RoundJob(EvaluationJob):
    """Train these weights at this site until the first of the study's limits."""

    seed: int
    """Of this study, site and round: :func:`~feat_fed.train.seeds.derive_seed`."""
    first_step: int
    """Optimiser steps of the study before this round, as planned."""
    total_steps: int
    """Of the whole study, as planned; where the learning rate's schedule ends."""
    folder: Path | None = None
    """Of the site, where several processes that train together keep their logs and what they hand
    to each other; None takes a temporary one. One process needs none."""
    optimiser_state: Mapping[str, Tensor] | None = None
    """Of an earlier round; None starts with a fresh optimiser."""
    privacy: PatientPrivacyConfig | None = None
    """DP-SGD over patients, its noise known; None trains without."""
    resume: MidRound | None = None
    """What a process that was ended in this very round left; None begins it."""


@dataclass(frozen=True, kw_only=True)
class MidRound:
    """A round that is under way: all that the rest of it needs."""

    losses: tuple[float, ...]
    """Of the steps that were taken."""
    skipped_steps: int
    seconds: float
    """Of training so far."""
    micro_batch: int
    heldout_loss: float | None
    weights: Mapping[str, Tensor]
    optimiser_state: Mapping[str, Tensor]

    @property
    def steps_done(self) -> int:
        """Steps that lie behind it, taken or skipped."""
        return len(self.losses) + self.skipped_steps


@dataclass(frozen=True)
class StepProgress:
    """How far the round is, after a step."""

    step: int
    steps: int
    """At most; the round's minutes may end it before."""
    loss: float | None
    """None: no patient took part in it, as may be with privacy."""
    clips_per_sec: float
    seconds: float = 0.0
    """Of training in the round so far."""
    gradient_norm: float = math.nan
    learning_rate: float = math.nan
    memory_bytes: int = 0
    """Most that the process has taken: of the GPU's memory, or of the machine's."""


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class RoundHooks:
    """What goes on around a round while it trains; the last three are called after every step."""

    alive: Callable[[], None] = _nothing
    """Called with each part of a step and of the scoring: a sign of life."""
    fitted: Callable[[int], None] = lambda _: None
    """Told, before the first step, how many clips a process takes at once."""
    progress: Callable[[StepProgress], None] = lambda _: None
    must_end: Callable[[], EndedBy | None] = _nothing
    """Whether the site wants the round to end with the steps that it has."""
    keep: Callable[[Callable[[], MidRound]], None] = lambda _: None
    """Writes a checkpoint when it is time for one; makes it by calling what it is given."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round at a site gives back; all but the weights are plain numbers."""

    weights: dict[str, Tensor]
    train_loss: float
    """Mean of the total loss over the round's steps."""
    heldout_loss: float | None
    """Of the weights received, before training; None without held-out clips."""
    steps: int
    """Optimiser steps that were taken."""
    skipped_steps: int
    """Steps that were not taken, because a loss or gradient was not finite."""
    ended_by: EndedBy
    examples: int
    seconds: float
    optimiser_state: dict[str, Tensor] | None
    """For the site's next round; None where the study resets it."""
