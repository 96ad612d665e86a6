"""What all sites told of a model's clips, and what may be released on it: ``release.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from feat_fed.config.base import StrictModel
from feat_fed.config.model import SamplerConfig
from feat_fed.config.study import Name
from feat_fed.memorisation.calibration import chance_of
from feat_fed.memorisation.messages import NearestClips

Gate = Literal["passed", "near", "incomplete"]
"""``near``: a clip is nearer to training clips than held-out patients are. ``incomplete``: a site
that took part has not answered, or has no patient held out to compare with."""

ModelRelease = Literal["released", "released-anyway", "kept"]


class SiteAnswer(StrictModel):
    """What became of the question at one site; reasons are phrases of ours."""

    site: Name
    status: Literal["answered", "declined", "failed", "refused", "missing"]
    reason: str = ""
    nearest: NearestClips | None = None

    @property
    def is_enough(self) -> bool:
        """Whether the site's clips were searched, and compared with patients held out."""
        return self.nearest is not None and self.nearest.calibrated != "none"

    @property
    def by_chance(self) -> float | None:
        """The chance of as many near clips where none is a copy, if the site told enough."""
        told = self.nearest
        if told is None or not told.heldout_patients:
            return None
        return chance_of(sum(told.near), of=len(told.near), patients=told.heldout_patients)


class ClipVerdict(StrictModel):
    """One generated clip."""

    clip: int = Field(ge=1)
    seed: int
    near_at: tuple[Name, ...]
    score: float | None = Field(None, description="the largest that a site told, rounded")
    released: bool


class Release(StrictModel):
    """The gate's decision on one model and its clips."""

    schema_version: Literal[1] = 1
    at: str = Field(description="ISO 8601, UTC")
    study: Name
    study_id: str
    round: int = Field(ge=1)
    weights: Literal["ema"] = "ema"
    sampler: SamplerConfig
    clips_sha256: str = Field(description="of the latents that the sites compared")
    gate: Gate
    model: ModelRelease
    word: str | None = Field(None, description="of the coordinator, for a release in spite of it")
    sites: tuple[SiteAnswer, ...]
    by_chance: dict[Name, float | None]
    clips: tuple[ClipVerdict, ...]

    @property
    def withheld(self) -> int:
        """How many clips stay where they are."""
        return sum(not each.released for each in self.clips)

    @property
    def lacking(self) -> tuple[SiteAnswer, ...]:
        """Sites whose word is missing."""
        return tuple(each for each in self.sites if not each.is_enough)


def decide(
    answers: Sequence[SiteAnswer], *, seeds: Sequence[int], word: str | None
) -> tuple[Gate, ModelRelease, tuple[ClipVerdict, ...]]:
    """Return the gate's state, whether the model is released, and the verdict on each clip.

    A clip that is near at any site is never released. While a site's answer is missing no clip is,
    without a word for it.
    """
    near_at = [
        tuple(each.site for each in answers if each.nearest and each.nearest.near[place])
        for place in range(len(seeds))
    ]
    gate: Gate = "passed"
    if any(near_at):
        gate = "near"
    if not answers or not all(each.is_enough for each in answers):
        gate = "incomplete"
    model: ModelRelease = "kept"
    if gate == "passed":
        model = "released"
    elif word is not None:
        model = "released-anyway"
    may_go = gate != "incomplete" or word is not None
    scores = [each.nearest.scores for each in answers if each.nearest and each.nearest.scores]
    verdicts = tuple(
        ClipVerdict(
            clip=place + 1,
            seed=seed,
            near_at=near_at[place],
            score=max((each[place] for each in scores), default=None),
            released=may_go and not near_at[place],
        )
        for place, seed in enumerate(seeds)
    )
    return gate, model, verdicts
