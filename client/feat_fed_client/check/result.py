"""What a check finds, for people and for machines.

A result stays at the site, but is likely to be mailed to somebody who helps: it holds numbers
and phrases of ours, and neither names nor paths of files.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name

Status = Literal["green", "amber", "red"]
CheckId = Annotated[str, StringConstraints(pattern=r"^[a-z]{1,20}$")]
StudyFrom = Literal["option", "last round"]
Number = int | float | bool | str | None


class Finding(StrictModel):
    """What one check found: ``numbers`` are those of ``found``, with units in their names."""

    status: Status
    found: str
    mend: str = ""
    numbers: dict[str, Number] = Field(default_factory=dict)


class CheckResult(StrictModel):
    """A check and its finding."""

    id: CheckId
    title: str
    status: Status
    found: str
    mend: str
    numbers: dict[str, Number]


class CheckReport(StrictModel):
    """All that ``feat-fed check --json`` prints."""

    schema_version: Literal[1] = 1
    feat_fed: str
    site: Name
    study: Name | None = Field(description="null: none is known yet")
    study_from: StudyFrom | None
    checked_at: AwareDatetime
    offline: bool
    quick: bool
    status: Status = Field(description="the worst of the results'")
    results: tuple[CheckResult, ...]


def green(found: str, **numbers: Number) -> Finding:
    """Say that all is well."""
    return Finding(status="green", found=found, numbers=numbers)


def amber(found: str, mend: str, **numbers: Number) -> Finding:
    """Say that the site can take part, or that nobody knows yet: somebody should look."""
    return Finding(status="amber", found=found, mend=mend, numbers=numbers)


def red(found: str, mend: str, **numbers: Number) -> Finding:
    """Say that the site cannot take part until this is mended."""
    return Finding(status="red", found=found, mend=mend, numbers=numbers)


def worst(statuses: list[Status]) -> Status:
    """Return the worst of them; green of none."""
    order: tuple[Status, ...] = ("red", "amber", "green")
    return next((each for each in order if each in statuses), "green")
