"""The study that the server last asked this site for, kept in the site's store.

It tells ``feat-fed check`` what this machine has to be good for.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import StudyConfig
from feat_fed.config.base import StrictModel
from feat_fed.protocol import Assignment, Versions

FILE = "study.json"

log = logging.getLogger(__name__)


class KnownStudy(StrictModel):
    """A study as it came over the wire, and what the server ran then."""

    schema_version: Literal[1] = 1
    study: StudyConfig
    versions: Versions | None
    received_at: AwareDatetime


def remember_study(store: Path, assignment: Assignment) -> None:
    """Keep the assignment's study; no round fails because that cannot be written."""
    known = KnownStudy(
        study=assignment.study,
        versions=assignment.versions,
        received_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
    )
    try:
        store.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(store / FILE, known.model_dump_json().encode(), mode=0o600)
    except OSError as error:
        log.warning("the study cannot be kept for `feat-fed check`: %s", error.strerror)


def recall_study(store: Path) -> KnownStudy | None:
    """Return what was kept; None before the first round, or for what this version cannot read."""
    with contextlib.suppress(OSError, ValidationError):
        return KnownStudy.model_validate_json((store / FILE).read_bytes())
    return None
