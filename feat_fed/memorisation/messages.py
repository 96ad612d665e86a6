"""What is asked of a site about generated clips, and what it may tell.

Both are enclosed in the protocol's headers; the clips' latents travel beside the question.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import ReleaseTold
from feat_fed.errors import PrivacyError
from feat_fed.memorisation.calibration import LEVEL, rank_of

MAX_CLIPS = 256
"""In one question."""

GRID = 0.05
"""To which a similarity is rounded before it leaves."""

Score = Annotated[float, Field(ge=-1, le=1)]
Calibrated = Literal["enough", "few", "none"]
"""Whether held-out patients suffice for the level, are fewer, or there is none."""


class GeneratedClips(StrictModel):
    """Server to site: how many clips' latents there are beside it."""

    clips: int = Field(ge=1, le=MAX_CLIPS)


class NearestClips(StrictModel):
    """Site to server: which of the clips are nearer to training clips than patients are."""

    near: tuple[StrictBool, ...] = Field(min_length=1, max_length=MAX_CLIPS)
    calibrated: Calibrated
    heldout_patients: int | None = Field(None, ge=0, le=10**6)
    threshold: Score | None = None
    scores: tuple[Score, ...] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.scores is not None and len(self.scores) != len(self.near):
            raise ValueError("scores are of other clips than verdicts")
        if (self.scores is None) != (self.heldout_patients is None):
            raise ValueError("scores and the number of held-out patients are told together")
        known = self.heldout_patients
        if known is not None and calibrated_by(known) != self.calibrated:
            raise ValueError(f"{known} held-out patients are not {self.calibrated}")
        wants_threshold = self.scores is not None and self.calibrated != "none"
        if (self.threshold is not None) != wants_threshold:
            raise ValueError("a threshold is told with scores, where there is one")
        told = (*(self.scores or ()), *(() if self.threshold is None else (self.threshold,)))
        if any(each != coarse(each) for each in told):
            raise ValueError(f"a similarity is not a multiple of {GRID}")
        return self

    def told(self, policy: ReleaseTold) -> NearestClips:
        """Return what a policy lets out of it.

        Raises
        ------
        PrivacyError
            If the policy lets out nothing.
        """
        if policy == "nothing":
            raise PrivacyError("release.tell is `nothing`: no answer about copies may leave")
        if policy == "scores":
            return self
        less = {"scores": None, "threshold": None, "heldout_patients": None}
        return self.model_copy(update=less)


def calibrated_by(patients: int) -> Calibrated:
    """Say what so many held-out patients are good for."""
    if not patients:
        return "none"
    return "few" if rank_of(patients) > LEVEL * (patients + 1) + 1e-9 else "enough"


def coarse(score: float) -> float:
    """Round a similarity to the grid."""
    return round(round(score / GRID) * GRID, 2) + 0.0  # and no -0.0
