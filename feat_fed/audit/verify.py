"""Whether an audit log is whole: each line's own hash, its place in the chain, and its end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from feat_fed.audit.events import EVENTS, TailMissing, TornLineClosed
from feat_fed.audit.line import Head, Line, read_line
from feat_fed.audit.log import read_head, segments
from feat_fed.errors import AuditError


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


def verify(folder: Path, *, noted_hash: str | None = None) -> Verdict:
    """Check a log from its first line to its last.

    Parameters
    ----------
    noted_hash
        A head that was noted before: the log must still hold that line.

    Raises
    ------
    AuditError
        If there is no log, or it cannot be read.
    """
    files = segments(folder)
    if not files:
        raise AuditError(f"{folder} holds no audit log")
    check = _Check()
    try:
        for path in files:
            check.file(path)
    except OSError as error:
        raise AuditError(f"{error.filename} cannot be read: {error.strerror}") from error
    check.end(read_head(folder), noted_hash)
    return check.verdict


class _Check:
    def __init__(self) -> None:
        self.verdict = Verdict()
        self._number: int | None = None
        self._hashes: set[str] = set()
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
            line = read_line(raw) if ended else None
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
            event = EVENTS.validate_python(line.event)
        except ValidationError:
            self.verdict.problems.append(f"{where}: an event that this version does not know")
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
        self._hashes.add(line.hash)

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
        if noted_hash and noted_hash not in self._hashes:
            self.verdict.problems.append(
                "it does not hold the noted line: its end is missing, or it is another log"
            )


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
