"""Append-only logs whose lines are chained by hashes: who, what, when, and what left.

::

    audit/000001.jsonl, 000002.jsonl, ...   segments; the chain runs through all of them
    audit/head.json                         the last line's number and hash
    audit/lock                              held while a line is written

A line is on the disk before :meth:`ChainedLog.append` returns, so what it records has not happened
yet when that fails. Nothing that was written is ever changed or removed here; segments may be
archived from the oldest on.

What a kill leaves of a line stays, and the next line says how many bytes and of which hash. A
whole line that is damaged ends its file: writing goes on in a new one, which says what was found,
so the evidence stays as it is, and a flipped bit does not take a hospital out of a study.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import ValidationError

from feat_fed import __version__
from feat_fed.atomic import sync_folder
from feat_fed.audit.events import AuditEvent, LogBegan, SegmentBegan, TailMissing, TornLineClosed
from feat_fed.audit.line import Head, Line, read_line, write_line
from feat_fed.config.base import StrictModel
from feat_fed.errors import StorageError

FOLDER = "audit"
"""In a site's store and in a run's folder."""

SEGMENT_BYTES = 8_000_000
"""A file that has so many gets no further line."""

_LONGEST_LINE_BYTES = 65_536
_LOCK_SEC = 60.0
_LOCK_PAUSE_SEC = 0.02


@dataclass(frozen=True)
class _End:
    """Where the log stands: its last whole line, and what comes after it in the last file."""

    segment: Path
    head: Head | None
    rest: bytes = b""


EventT = TypeVar("EventT", bound=StrictModel)


class ChainedLog(Generic[EventT]):
    """A folder with a log; made with its first line. Any number of processes may append.

    Parameters
    ----------
    owner
        What the first line says.
    """

    what: ClassVar[str] = "the log"
    """In messages."""

    def __init__(self, folder: Path, owner: EventT) -> None:
        self.folder = folder
        self._owner = owner

    def append(self, event: EventT) -> Head:
        """Write an event to the disk.

        Raises
        ------
        StorageError
            If that cannot be done: the event must not be acted on then.
        """
        return self.append_after(lambda: event)

    def append_after(self, look: Callable[[], EventT]) -> Head:
        """Write the event that ``look`` returns, which nobody appends in the meantime of.

        Raises
        ------
        StorageError
            If that cannot be done: the event must not be acted on then.
        """
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                head = self._write(look())
                _write_head(self.folder, head)
                return head
        except OSError as error:
            raise StorageError(
                f"{self.what} {self.folder} cannot be written: {error.strerror or error}; "
                "nothing leaves without it"
            ) from error

    def last(self, kind: str) -> Line | None:
        """Return the last whole line of a kind, of those in the last two files."""
        sought = f'"event":{{"kind":"{kind}"'.encode()
        for path in reversed(segments(self.folder)[-2:]):
            for raw in reversed(path.read_bytes().split(b"\n")):
                if sought in raw and (line := read_line(raw)):
                    return line
        return None

    def _write(self, event: EventT) -> Head:
        end, noted = self._end(), read_head(self.folder)
        is_new = end.head is None
        if end.rest:
            is_new = is_new and read_line(end.rest) is None
            end = self._repair(end)
        elif not end.segment.exists() or not end.segment.stat().st_size:
            end = self._open(end)
        if is_new:
            end = self._add(end, self._owner)
        if noted and end.head and noted.sequence > end.head.sequence:
            missing = TailMissing(noted_sequence=noted.sequence, noted_hash=noted.hash)
            end = self._add(end, missing)
        if end.segment.stat().st_size >= SEGMENT_BYTES:
            end = self._next(end)
        head = self._add(end, event).head
        assert head is not None
        return head

    def _end(self) -> _End:
        """Find the last whole line; by the last bytes alone where they are as they should be."""
        files = segments(self.folder)
        for path in reversed(files):
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _LONGEST_LINE_BYTES))
                last = file.read()
            *_, before, after = [b"", b"", *last.split(b"\n")]
            if not after and (line := read_line(before)):
                return _End(files[-1], line.head)
            if last:
                return self._end_of_damaged(path, last=files[-1])
        return _End(files[-1] if files else self._segment(1), None)

    def _end_of_damaged(self, path: Path, *, last: Path) -> _End:
        content = path.read_bytes()
        head, whole, begins_at = None, 0, 0
        for raw in content.split(b"\n"):
            ends_at = begins_at + len(raw)
            if ends_at < len(content) and (line := read_line(raw)):
                head, whole = line.head, ends_at + 1
            begins_at = ends_at + 1
        if head is None:  # not one whole line: the chain comes from the file before
            before = [each for each in segments(self.folder) if each < path]
            head = _last_head(before)
        return _End(last, head, content[whole:] if path == last else b"")

    def _open(self, end: _End) -> _End:
        """Make the log's first file, or begin one that a kill left empty."""
        end.segment.touch()
        sync_folder(self.folder)
        number = int(end.segment.stem)
        return self._add(end, SegmentBegan(number=number)) if number > 1 else end

    def _repair(self, end: _End) -> _End:
        line = read_line(end.rest)
        if line is not None and line.follows(end.head):  # only its line feed is missing
            _append(end.segment, b"\n")
            return _End(end.segment, line.head)
        if end.rest.endswith(b"\n"):
            return self._next(end)
        digest = hashlib.sha256(end.rest).hexdigest()
        closed = TornLineClosed(torn_bytes=len(end.rest), torn_sha256=digest)
        return self._add(end, closed, before=b"\n")

    def _next(self, end: _End) -> _End:
        number = int(end.segment.stem) + 1
        path = self._segment(number)
        path.touch()
        sync_folder(self.folder)
        began = SegmentBegan(
            number=number,
            damaged_bytes=len(end.rest),
            damaged_sha256=hashlib.sha256(end.rest).hexdigest() if end.rest else None,
        )
        return self._add(_End(path, end.head), began)

    def _add(self, end: _End, event: StrictModel, *, before: bytes = b"") -> _End:
        line, head = write_line(event, after=end.head)
        _append(end.segment, before + line)
        return _End(end.segment, head)

    def _segment(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_SEC
        with (self.folder / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OSError("another process holds it") from None
                    time.sleep(_LOCK_PAUSE_SEC)
            yield


class AuditLog(ChainedLog[AuditEvent]):
    """A site's or a run's."""

    what = "the audit log"

    @classmethod
    def of_site(cls, store: Path, name: str) -> AuditLog:
        """Name the log in a site's store."""
        return cls(store / FOLDER, LogBegan(owner="site", name=name, version=__version__))

    @classmethod
    def of_run(cls, root: Path, study: str, study_id: str) -> AuditLog:
        """Name the log in a run's folder."""
        owner = LogBegan(owner="run", name=study, study_id=study_id or None, version=__version__)
        return cls(root / FOLDER, owner)


def segments(folder: Path) -> list[Path]:
    """Return the files of a log, in order."""
    return sorted(folder.glob("[0-9]" * 6 + ".jsonl"))


def read_head(folder: Path) -> Head | None:
    """Return what the head file says, if there is one."""
    with contextlib.suppress(OSError, ValidationError):
        return Head.model_validate_json((folder / "head.json").read_bytes())
    return None


def lines(folder: Path, *, last_files: int = 0) -> Iterator[Line]:
    """Yield the whole lines, in order, of all files or the last; :mod:`.verify` checks the chain.

    What a torn or damaged line was is not told.
    """
    for path in segments(folder)[-last_files:]:
        for raw in path.read_bytes().split(b"\n"):
            if line := read_line(raw):
                yield line


def _write_head(folder: Path, head: Head) -> None:
    """Overwrite the head file; one that a crash left half is as good as none."""
    content = head.model_dump_json().encode() + b"\n"
    descriptor = os.open(folder / "head.json", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _last_head(files: list[Path]) -> Head | None:
    for path in reversed(files):
        for raw in reversed(path.read_bytes().split(b"\n")):
            if line := read_line(raw):
                return line.head
    return None


def _append(path: Path, data: bytes) -> None:
    """Append and flush to disk; what a full disk took of it goes again, as far as possible."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
