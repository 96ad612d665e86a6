"""What came of a site's last rounds, in its store: the reports, as they were sent."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.protocol import Report
from feat_fed.report.live import SiteLive

_FILE = "rounds.jsonl"
_KEPT = 200


class PastRound(StrictModel):
    """One line."""

    at: float = Field(default_factory=time.time, description="Unix time of the report")
    report: Report


def note_report(store: Path, report: Report) -> None:
    """Add a report; the oldest go. A disk that cannot take it is no reason to fail a round."""
    rounds = [*past_rounds(store)[1 - _KEPT :], PastRound(report=report)]
    lines = "".join(each.model_dump_json(exclude_defaults=True) + "\n" for each in rounds)
    with contextlib.suppress(OSError):
        write_bytes_atomically(store / _FILE, lines.encode(), durable=False)


def note_idle(store: Path) -> None:
    """Say that nothing is under way, where a process that was killed still says otherwise."""
    live = SiteLive.read(store / "live.json")
    if live is not None and live.phase != "idle":
        with contextlib.suppress(OSError):
            SiteLive(phase="idle", round=live.round).write(store / "live.json")


def past_rounds(store: Path) -> list[PastRound]:
    """Return the last reports, oldest first; a damaged line is left out."""
    rounds = []
    with contextlib.suppress(OSError):
        for line in (store / _FILE).read_bytes().splitlines():
            with contextlib.suppress(ValidationError):
                rounds.append(PastRound.model_validate_json(line))
    return rounds
