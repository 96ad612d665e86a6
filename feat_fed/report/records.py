"""What a run writes down of each round: one JSON line, no text from inside a hospital."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field, field_validator

from feat_fed.config.base import StrictModel
from feat_fed.protocol import SHORTENED, EndedBy
from feat_fed.report.links import Link

SiteStatus = Literal["ok", "refused", "failed", "declined", "missing", "late"]
"""``ok``: aggregated. ``refused``: the server turned the reply away. ``failed``: the site
answered that it could not. ``declined``: the site's own limits forbid the round. ``missing``:
no answer before the deadline. ``late``: its update to an earlier round came, and was dropped."""


class SiteRound(StrictModel):
    """One site's part in one round."""

    site: str
    status: SiteStatus
    reason: str = Field("", description="a fixed phrase of ours; empty when ok")
    code: str = Field("", description="of the reason, where there is one")
    examples: int = Field(0, ge=0, description="training clips at the site")
    steps: int = Field(0, ge=0, description="optimiser steps taken")
    planned_steps: int = Field(0, ge=0, description="that the study asks of this site; 0: unknown")
    ended_by: EndedBy = Field(
        "steps", description="what ended the site's training: all its steps, or a limit before"
    )
    skipped_steps: int = Field(
        0, ge=0, description="not taken, because a loss or gradient was not finite"
    )
    train_loss: float | None = Field(None, description="mean over the round's steps")
    heldout_loss: float | None = Field(
        None, description="of the weights received, on the site's held-out patients"
    )
    train_sec: float = Field(0.0, ge=0)
    version: str = Field("", description="of feat-fed at the site")
    bytes_down: int = Field(0, ge=0, description="weights sent to the site, each time")
    bytes_up: int = Field(0, ge=0, description="weights received from the site")
    answers_round: int | None = Field(
        None, description="the earlier round that the update answers, where it came late"
    )
    link: Link | None = Field(
        None, description="what went over the wire in the round, measured at the server's door"
    )
    patients_only_here: bool = Field(
        False, description="the site vouches that its patients are at no other site of the study"
    )

    @property
    def shortfall(self) -> str:
        """What is missing of the round, and why, such as ``12 of 20 steps: ...``; or nothing."""
        parts = []
        if self.ended_by != "steps":
            of = f" of {self.planned_steps}" if self.planned_steps else ""
            parts.append(f"{self.steps}{of} steps: {SHORTENED[self.ended_by]}")
        if self.answers_round is not None:
            parts.append(f"came late, for round {self.answers_round}")
        if self.skipped_steps:
            parts.append(f"{self.skipped_steps} skipped: not finite")
        return "; ".join(parts)


class CentralRecord(StrictModel):
    """A round's noisy mean of clipped updates; nothing of it is exact but what the study says."""

    release: str = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="tells one drawing of noise from another: a round that is aggregated again "
        "with the same noise is one release",
    )
    clip_norm: float = Field(gt=0, description="longest update in the mean")
    noise_multiplier: float = Field(gt=0, description="that the round's releases claim together")
    share_within: float | None = Field(
        None,
        description="of updates within the bound, noised; None where clipping is fixed",
    )


class RoundRecord(StrictModel):
    """One round; losses are means over the sites, weighted by examples."""

    round: int = Field(ge=1)
    started_at: str = Field(description="ISO 8601, UTC")
    seconds: float = Field(ge=0)
    train_loss: float | None
    heldout_loss: float | None = Field(
        description="of the global weights that the round started from: round 1 scores the "
        "untrained model, the run's summary the final one"
    )
    weights_bytes: int = Field(
        0, ge=0, description="of the model's weights, whole and exact; 0: not known"
    )
    sites: tuple[SiteRound, ...]
    central: CentralRecord | None = Field(None, description="where the study has central privacy")

    @field_validator("started_at")
    @classmethod
    def _is_utc(cls, text: str) -> str:
        if datetime.fromisoformat(text).utcoffset() != timedelta(0):
            raise ValueError(f"{text!r} is not a time in UTC; write 2026-01-31T12:00:00+00:00")
        return text


class SiteEpsilon(StrictModel):
    """What a study's releases so far have spent of one hospital, as bounded by RDP and by PRV.

    The bound by RDP counts. PRV is None where its numerics do not reach.
    """

    site: str
    releases: int = Field(ge=1, description="in which the hospital took part")
    rdp: float
    prv: float | None
    patient_rdp: float | None = Field(
        None, description="of each patient; None: the site does not vouch that they are only there"
    )
    patient_prv: float | None = None


class CentralSpending(StrictModel):
    """What central privacy has spent so far, of each hospital that took part."""

    delta: float
    sites: tuple[SiteEpsilon, ...]


class RunSummary(StrictModel):
    """Where a run stands; rewritten atomically after each round."""

    study: str
    study_id: str = Field("", description="random; ties messages and weights to this run")
    state: Literal["running", "complete", "failed", "interrupted"]
    rounds_done: int = Field(ge=0)
    rounds_wanted: int = Field(ge=1)
    final_heldout_loss: float | None = None
    message: str = Field("", description="why it failed, in a phrase of ours")
    warnings: tuple[str, ...] = Field(
        (), description="what the coordinator should know of the run, in phrases of ours"
    )
    versions: dict[str, str] = Field(default_factory=dict)
    central: CentralSpending | None = Field(
        None, description="epsilon spent, where the study has central privacy"
    )
