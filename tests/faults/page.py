"""The matrix as text and as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from faults.cases import FAULTS, WORKERS

_ORDER = [each.key for each in (*FAULTS, *WORKERS)]

_HEAD = """# Faults

What dies, is cut off, filled or damaged while a study runs, and what it costs. Made by
`make faults` on {machine}: a coordinator and two hospitals as real processes on
one machine, whose connections go through a proxy that can be cut, and a study of very small rounds.
Each fault hits one of the next rounds in the phase that is named.

- **rounds lost**: completed rounds for which sites were asked again.
- **updates lost**: updates that a site had finished (they were in its spool) and trained again.
- **seconds**: from the fault, or from the moment at which the link or the disk was there again,
  until the round that was hit was complete, with the training that it still needed.

Undisturbed, such a round took {round_sec:.0f} s here, with {load} beside it. {told} of {known}
faults have been run; `make faults ARGS=--missing` runs the others.

"""

_TAIL = """
{verdict}

While a site's disk is full, its optimiser's state may not be kept, and its next round starts from
an older one, as its log says; so `make faults` takes that fault last.

Not in this table, for they are tests of their own, which `make test` runs: hostile updates (NaN,
infinite, missing, extra, misshapen, of another round or study, replayed) in
`tests/server/test_rounds.py` and its neighbours; hostile requests, oversized bodies, strangers'
keys and wrong clocks at the door in `tests/server/test_door.py`; bundles that a site has not
approved in `tests/client/test_executor.py`; a short version of this table, with the study's bytes
compared, in `tests/system/test_faults.py`.
"""


class Line(BaseModel):
    """One fault's outcome; ``error`` where it was not overcome."""

    rounds_lost: int = 0
    updates_lost: int = 0
    seconds: float = 0.0
    error: str = ""


class Results(BaseModel):
    """All that is known so far."""

    machine: str = ""
    load: str = ""
    round_sec: float = 0.0
    verdict: str = ""
    lines: dict[str, Line] = {}

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n")


def row(key: str, line: Line) -> str:
    """Return a row of the table."""
    fault, _, phase = key.rpartition(", ")
    told = (line.rounds_lost, line.updates_lost, f"{line.seconds:.0f}")
    cells = (line.error, "", "") if line.error else told
    return f"| {fault} | {phase} | {' | '.join(map(str, cells))} |"


def table(lines: Mapping[str, Line]) -> str:
    head = (
        "| fault | phase | rounds lost | updates lost | seconds |\n| --- | --- | --- | --- | --- |"
    )
    keys = [each for each in _ORDER if each in lines]
    return "\n".join([head, *(row(key, lines[key]) for key in keys)])


def page(results: Results) -> str:
    head = _HEAD.format(
        machine=results.machine,
        round_sec=results.round_sec,
        load=results.load or "nothing",
        told=len(results.lines),
        known=len(_ORDER),
    )
    return head + table(results.lines) + "\n" + _TAIL.format(verdict=results.verdict)
