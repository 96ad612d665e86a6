"""Whether a chained log is whole: each line's own hash, its place in the chain, and its end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from feat_fed.audit.events import EVENTS, TailMissing, TornLineClosed
from feat_fed.audit.line import Head, Line, read_line
from feat_fed.audit.log import read_head, segments
from feat_fed.config.base import StrictModel
from feat_fed.errors import AuditError

Seen = Callable[[str, Line, StrictModel], None]
"""Gets where a line is (``000001.jsonl:7``), the line, and its event."""


@dataclass(frozen=True)
class Noted:
    """A line of a log that somebody else has noted."""

    by: str
    head: Head


@dataclass
class Verdict:
    """What was found; a log without problems is whole as far as it goes."""

    lines: int = 0
    began_at: str | None = None
    ended_at: str | None = None
    head: Head | None = None
    problems: list[str] = field(default_factory=list)
    """What no kill of a process explains: a line was changed, removed or added."""
    notes: list[str] = field(default_factory=list)


def verify(
    folder: Path,
    *,
    noted_hash: str | None = None,
    noted: Iterable[Noted] = (),
    owner: str | None = None,
    events: TypeAdapter[Any] = EVENTS,
    what: str = "audit log",
    seen: Seen = lambda *_: None,
) -> Verdict:
    """Check a log from its first line to its last.

    Parameters
    ----------
    noted_hash
        A head that was noted before: the log must still hold that line.
    noted
        The same, with what they were noted by.
    owner
        Whose name its first line must say.
    events
        Reads the log's events.
    seen
        Called with each whole line of a kind that is known.

    Raises
    ------
    AuditError
        If there is no log, or it cannot be read.
    """
    head = read_head(folder)  # first: lines may be written meanwhile
    files = segments(folder)
    if not files:
        raise AuditError(f"{folder} holds no {what}")
    check = _Check(owner, events, seen)
    try:
        for path in files:
            check.file(path)
    except OSError as error:
        raise AuditError(f"{error.filename} cannot be read: {error.strerror}") from error
    check.end(head, noted_hash)
    check.hold(noted)
    return check.verdict


class _Check:
    def __init__(self, owner: str | None, events: TypeAdapter[Any], seen: Seen) -> None:
        self.verdict = Verdict()
        self._owner, self._events, self._seen = owner, events, seen
        self._number: int | None = None
        self._hashes: dict[int, str] = {}
        self._bad: list[tuple[str, bytes]] = []
        self._torn: tuple[str, int] | None = None

    def file(self, path: Path) -> None:
        number = int(path.stem)
        if self._torn:
            self.verdict.problems.append(f"{self._torn[0]}: the line is damaged")
            self._torn = None
        if self._number is None and number > 1:
            self.verdict.notes.append(f"it begins with {path.name}; what came before is not here")
        elif self._number is not None and number != self._number + 1:
            self.verdict.problems.append(f"files are missing between it and {path.name}")
        first_of_all, self._number = self._number is None, number
        for where, raw, ended in _raw_lines(path):
            # Of one that is whole only the line feed is missing; the next one adds it.
            line = read_line(raw)
            if line is None:
                self._bad.append((where, raw + b"\n" * ended))
            else:
                self._line(where, line, anchor=first_of_all and number > 1)
                first_of_all = False
        self._end_of_file()

    def _line(self, where: str, line: Line, *, anchor: bool) -> None:
        before, bad, self._bad = self.verdict.head, self._bad, []
        event = None
        try:
            event = self._events.validate_python(line.event)
        except ValidationError:
            self.verdict.problems.append(f"{where}: an event that this version does not know")
        else:
            self._seen(where, line, event)
        name = getattr(event, "name", None)  # of a log's first event alone
        if self._owner is not None and name not in (None, self._owner):
            self.verdict.problems.append(f"{where}: it is the log of {name}, not of {self._owner}")
        skipped = len(bad)
        if isinstance(event, TornLineClosed) and _closes(event, bad):
            self.verdict.notes.append(f"{where}: closes a line that a kill left torn")
            skipped = 0
        else:
            self._report(bad)
        if not (anchor or line.follows(before)):
            expected = (before.sequence if before else 0) + skipped + 1
            if not skipped or line.sequence != expected:
                self.verdict.problems.append(
                    f"{where}: line {line.sequence} does not follow line {expected - 1}: lines "
                    "were removed, added or changed"
                )
        if isinstance(event, TailMissing):
            self.verdict.problems.append(
                f"{where}: lines up to {event.noted_sequence} were missing when it was written"
            )
        self.verdict.lines += 1
        self.verdict.began_at = self.verdict.began_at or line.at
        self.verdict.ended_at, self.verdict.head = line.at, line.head
        self._hashes[line.sequence] = line.hash

    def _end_of_file(self) -> None:
        if self._bad and not self._bad[-1][1].endswith(b"\n"):
            where, raw = self._bad.pop()
            self._torn = (where, len(raw))
        self._report(self._bad)
        self._bad = []

    def _report(self, bad: list[tuple[str, bytes]]) -> None:
        self.verdict.problems.extend(f"{where}: the line is damaged" for where, _ in bad)

    def end(self, head: Head | None, noted_hash: str | None) -> None:
        if self._torn:
            where, size = self._torn
            self.verdict.notes.append(
                f"{where}: {size} bytes of a torn line; the next one will close it off"
            )
        last = self.verdict.head.sequence if self.verdict.head else 0
        if head and head.sequence > last:
            self.verdict.problems.append(
                f"it ends with line {last}, and head.json names line {head.sequence}: its end is "
                "missing"
            )
        elif head and self._hashes.get(head.sequence) != head.hash:
            self.verdict.problems.append(
                f"line {head.sequence} is not the one that head.json names: it was changed"
            )
        if noted_hash and noted_hash not in self._hashes.values():
            self.verdict.problems.append(
                "it does not hold the noted line: its end is missing, or it is another log"
            )

    def hold(self, noted: Iterable[Noted]) -> None:
        """Note what of the noted is not there; what was archived cannot be looked for."""
        first, last = min(self._hashes, default=1), max(self._hashes, default=0)
        for each in noted:
            number = each.head.sequence
            if number > last:
                told = f"it ends with line {last}, and {each.by} has seen line {number}"
                self.verdict.problems.append(f"{told}: its end is missing, or it is another log")
            elif number >= first and self._hashes.get(number) != each.head.hash:
                told = f"line {number} is not the one that {each.by} has seen"
                self.verdict.problems.append(f"{told}: it was changed, or it is another log")


def _raw_lines(path: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Yield where a line is, its bytes, and whether it has its line feed."""
    *whole, rest = path.read_bytes().split(b"\n")
    for number, raw in enumerate(whole, start=1):
        yield f"{path.name}:{number}", raw, True
    if rest:
        yield f"{path.name}:{len(whole) + 1}", rest, False


def _closes(event: TornLineClosed, bad: list[tuple[str, bytes]]) -> bool:
    torn = b"".join(raw for _, raw in bad).removesuffix(b"\n")
    told = (event.torn_bytes, event.torn_sha256)
    return told == (len(torn), hashlib.sha256(torn).hexdigest())
