"""What came of a site's last rounds, in its store: the reports, and what the server said."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.protocol import Report, Verdict
from feat_fed.report.live import SiteLive

_FILE = "rounds.jsonl"
_KEPT = 200


class PastRound(StrictModel):
    """One line."""

    at: float = Field(default_factory=time.time, description="Unix time of the report")
    report: Report
    verdict: Verdict | None = Field(None, description="of the server, told with its next message")


def note_report(store: Path, report: Report) -> None:
    """Add a report; the oldest go. A disk that cannot take it is no reason to fail a round."""
    _write(store, [*past_rounds(store)[1 - _KEPT :], PastRound(report=report)])


def note_verdict(store: Path, study_id: str, verdict: Verdict) -> bool:
    """Put the server's word beside the last report that it is on; return whether it is new."""
    rounds = past_rounds(store)
    for index in reversed(range(len(rounds))):
        report = rounds[index].report
        if (report.study_id, report.round, report.task) == (study_id, verdict.round, "train"):
            if rounds[index].verdict == verdict:
                return False
            rounds[index] = rounds[index].model_copy(update={"verdict": verdict})
            _write(store, rounds)
            return True
    return False


def _write(store: Path, rounds: list[PastRound]) -> None:
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
