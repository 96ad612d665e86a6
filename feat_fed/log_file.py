"""Log files that stay small: five of ten megabytes, of our own lines or of a child's output.

A child process writes to its file by itself, with ``O_APPEND``, rather than through a pipe that
its supervisor reads: nothing that it wrote is lost when either of the two is killed, a supervisor
that stands still does not stop it, and a grandchild that lives on keeps no reader waiting. So its
file is rotated by copying it and cutting it to nothing, when its supervisor looks at it; a line
that is written in the instant of the cut may be lost, once in ten megabytes.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
import shutil
from collections import deque
from pathlib import Path

MAX_BYTES = 10_000_000
"""Of a log file, about; what is written between two looks comes on top."""

BACKUPS = 4
"""NAME.1, the newest, to NAME.4."""

_TAIL_LINES = 200
_NEWS_LINES = 10_000
_LONGEST_LINE_BYTES = 65_536
_COLOUR = re.compile(r"\x1b\[[0-9;]*m|\r$")


def rotating_handler(path: Path) -> logging.Handler:
    """Return a handler for our own log lines."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    return handler


class ChildLog:
    """A file that a child process appends to; made before that child starts.

    Lines that were there before are of no concern. Those that are told have no control characters.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._offset = path.stat().st_size
        self._unfinished = b""
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)
        self._news: deque[str] = deque(maxlen=_NEWS_LINES)

    def tail(self, lines: int) -> str:
        """Return the last lines that the child wrote, also those that were rotated away."""
        self._read()
        unfinished = [_plain(self._unfinished)] if self._unfinished else []
        return "\n".join([*self._last, *unfinished][-lines:])

    def news(self) -> list[str]:
        """Return the whole lines that came since the last call."""
        self._read()
        news = list(self._news)
        self._news.clear()
        return news

    def rotate_if_large(self) -> None:
        """Move what the file holds to NAME.1 when it is large.

        Disk or permissions that forbid it are no reason to end what is logged.
        """
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > MAX_BYTES:
                self._rotate()

    def _rotate(self) -> None:
        copy = self._backup(0)
        try:
            with self.path.open("rb+") as log, copy.open("wb+") as backup:
                # The child goes on writing: all is kept but what comes between these two lines.
                while os.fstat(log.fileno()).st_size > log.tell():
                    shutil.copyfileobj(log, backup)
                os.ftruncate(log.fileno(), 0)
                backup.seek(min(self._offset, log.tell()))
                self._add(backup.read())
                self._offset = 0
            for number in range(BACKUPS, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._backup(number - 1).replace(self._backup(number))
        finally:
            copy.unlink(missing_ok=True)  # where the disk was full

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _read(self) -> None:
        with contextlib.suppress(OSError), self.path.open("rb") as log:
            if os.fstat(log.fileno()).st_size < self._offset:
                self._offset = 0  # somebody else has cut it
            log.seek(self._offset)
            while chunk := log.read(1_000_000):
                self._offset += len(chunk)
                self._add(chunk)

    def _add(self, chunk: bytes) -> None:
        *whole, self._unfinished = (self._unfinished + chunk).split(b"\n")
        self._unfinished = self._unfinished[-_LONGEST_LINE_BYTES:]
        for line in whole:
            text = _plain(line)
            self._last.append(text)
            self._news.append(text)


def _plain(line: bytes) -> str:
    """Return a line for a terminal: whatever wrote it may have quoted what came over the wire."""
    text = _COLOUR.sub("", line.decode(errors="replace"))
    return "".join(each if each.isprintable() or each == "\t" else "?" for each in text)
