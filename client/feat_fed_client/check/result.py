"""All that ``feat-fed check`` says of a site.

It stays at the site, but is likely to be mailed to somebody who helps: it holds numbers and phrases
of ours, and neither names nor paths of files.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.findings import CheckResult, Status

StudyFrom = Literal["option", "last round"]


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
