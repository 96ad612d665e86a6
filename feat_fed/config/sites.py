"""Which sites a round needs, asks and waits for, and which of their updates it takes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel


class SitesConfig(StrictModel):
    """Whom the study needs, whom it asks and how long it waits for them."""

    minimum: int = Field(2, ge=1, description="sites without which no round starts")
    per_round: int | None = Field(
        None,
        ge=1,
        description="sites that a round asks, drawn anew each round from the study's seed among "
        "those that are there; null: all",
    )
    wait_sec: float = Field(600, gt=0, description="for the minimum, before the study gives up")
    settle_sec: float = Field(
        20, ge=0, description="that the others get once the minimum is there, in each round"
    )
    round_sec: float = Field(3600, gt=0, description="longest that a round waits for answers")
    deadline: Literal["fixed", "learned"] = Field(
        "fixed",
        description="how long a site is waited for: `round_sec`, or by its own last rounds and its "
        "link, which ends some rounds early and so does not replay to the same bytes",
    )
    shortest_sec: float = Field(60, gt=0, description="that a learned deadline gives any site")
    late_replies: Literal["drop", "next-round"] = Field(
        "drop",
        description="an update that comes after its round: dropped, or put into the next round as "
        "the difference that it made, which depends on the time of its coming",
    )

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        if self.per_round is not None and self.per_round < self.minimum:
            raise ValueError(
                f"sites.per_round is {self.per_round} and sites.minimum {self.minimum}: a round "
                "asks at least as many sites as it needs; raise the one or lower the other"
            )
        return self


class ScreeningConfig(StrictModel):
    """Which updates are refused before they touch the model; null turns a rule off.

    Form, names, shapes, types, finite values, study, round, steps and replays are always checked.
    """

    max_move: float | None = Field(
        10.0,
        gt=0,
        description="farthest that a round may move a weight, in learning_rate * local_steps; "
        "AdamW gets to about 3.2 (Kingma and Ba, arXiv 1412.6980, section 2.1)",
    )
    max_norm_z: float | None = Field(
        6.0,
        gt=0,
        description="robust z-score, among the other sites' in the round, of the logarithm of an "
        "update's norm; one-sided, for small updates are what short rounds give",
    )
    max_weight_share: float | None = Field(
        0.99, gt=0, le=1, description="of one site in a round's mean, where there are others"
    )
    quarantine_after: int | None = Field(
        3,
        ge=1,
        description="rounds in a row with a refused update, after which a site is asked no more "
        "until `feat-fed study readmit`",
    )
