"""What a site is asked to do, what it does it with, and what it gives back.

Shapes: B clips of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from feat_fed.config import DiffusionConfig, FEATConfig, TrainingConfig


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
    micro_batch: int | None = None
    """Clips that pass through the network at once, at most; None: the study's batch."""


@dataclass(frozen=True, kw_only=True)
class RoundJob(EvaluationJob):
    """Train these weights at this site until the first of the study's limits."""

    seed: int
    """Of this study, site and round: :func:`~feat_fed.train.seeds.derive_seed`."""
    first_step: int
    """Optimiser steps of the study before this round, as planned."""
    total_steps: int
    """Of the whole study, as planned; where the learning rate's schedule ends."""
    gradient_checkpointing: bool = False
    optimiser_state: Mapping[str, Tensor] | None = None
    """Of an earlier round; None starts with a fresh optimiser."""


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
    examples: int
    seconds: float
    optimiser_state: dict[str, Tensor] | None
    """For the site's next round; None where the study resets it."""


@dataclass(frozen=True)
class StepProgress:
    """How far the round is, after a step."""

    step: int
    steps: int
    """At most; the round's minutes may end it before."""
    loss: float
    clips_per_sec: float
