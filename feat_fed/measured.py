"""What measuring a model's clips gives: numbers with all that it takes to compare them.

Written by whoever measures, read by whoever shows; numbers and phrases of ours alone.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field, field_validator

from feat_fed.config.base import StrictModel


class MetricValue(StrictModel):
    """One metric of one evaluation."""

    metric: str = Field(min_length=1, description="such as FVD, FVD-random, KID, sharpness")
    value: float
    low: float | None = Field(None, description="of the 95 % bootstrap interval, where there is")
    high: float | None = None
    num_real: int = Field(ge=0, description="clips or frames that the number is of")
    num_generated: int = Field(ge=0)
    better: Literal["lower", "higher", "neither"] = Field(
        description="which way a better model moves it; neither: a diagnostic"
    )
    warning: str = Field("", description="why the number is not to be relied on; a phrase of ours")

    def beats(self, other: MetricValue) -> bool:
        """Whether this is the better value of the two, strictly."""
        if self.better == "neither":
            return False
        return self.value < other.value if self.better == "lower" else self.value > other.value


class Evaluation(StrictModel):
    """Everything measured of one model at one time, against one benchmark by one protocol."""

    at: str = Field(description="when it was done; ISO 8601, UTC")
    seconds: float = Field(ge=0)
    source: Literal["round", "checkpoint", "folder"] = Field(
        description="what was measured: a round of the run, a checkpoint, a folder of videos"
    )
    round: int | None = Field(None, ge=0, description="0 is the untrained model")
    weights: Literal["ema", "global"] | None = None
    weights_sha256: str = Field("", description="that the weights' file holds of its content")
    benchmark: str
    benchmark_digest: str = Field(description="SHA-256 over the content of the real videos")
    protocol: str
    protocol_digest: str = Field(description="SHA-256 of all that the protocol says")
    networks: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of what computed the features, by name"
    )
    sampler: dict[str, Any] = Field(
        default_factory=dict, description="how the clips were drawn; empty for videos of others"
    )
    seed: int = Field(0, description="of the first clip that was drawn; the others count up")
    metrics: tuple[MetricValue, ...]

    @field_validator("at")
    @classmethod
    def _is_utc(cls, text: str) -> str:
        if datetime.fromisoformat(text).utcoffset() != timedelta(0):
            raise ValueError(f"{text!r} is not a time in UTC; write 2026-01-31T12:00:00+00:00")
        return text

    @property
    def terms(self) -> str:
        """All that must be equal for the numbers of two evaluations to be compared."""
        names = {"benchmark_digest", "protocol_digest", "networks", "sampler", "seed", "weights"}
        return json.dumps(self.model_dump(mode="json", include=names), sort_keys=True)

    def metric(self, name: str) -> MetricValue | None:
        """Return the metric of that name, or None."""
        return next((each for each in self.metrics if each.metric == name), None)
