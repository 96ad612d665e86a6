"""Files that are either whole or not there, whatever kills the process or the machine."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Lend a hidden path beside ``path``; what was written there becomes ``path`` at the end.

    The lent name keeps the suffix, for libraries that choose a format by it. An
    exception inside leaves ``path`` as it was and removes the part. The file and its
    folder are flushed to disk, so the new content survives a power cut once the block
    has ended; without ``durable`` that wait is saved, for what can be made again.
    """
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    part = path.with_name(f".{path.stem}.{token}{path.suffix}")
    try:
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_bytes_atomically(
    path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True
) -> None:
    """Make ``data`` the content of ``path``; a reader sees the old file or the new one.

    ``mode`` holds from the first byte on, so a secret is never readable for a moment.
    ``durable`` is that of :func:`atomic_path`.
    """
    with atomic_path(path, durable=durable) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def append_line(path: Path, line: bytes) -> None:
    """Add a line to a file, made if it is not there, and flush it; a torn last one is cut off.

    Several processes may do so at once: a lock on the file, which ends with its holder, puts
    them in order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def remove_parts(folder: Path, pattern: str = "*") -> None:
    """Remove the parts that processes left in ``folder`` when they were killed while writing.

    Call it where nothing in this process is writing there. Other living processes' parts stay.

    Parameters
    ----------
    pattern
        Of the names (with suffix) that the parts were to get.
    """
    for part in folder.glob(".*.*-????????*"):
        match = re.fullmatch(r"\.(.+)\.(\d+)-[0-9a-f]{8}(\.\w+)?", part.name)
        if match and fnmatch(match[1] + (match[3] or ""), pattern):
            pid = int(match[2])
            if pid == os.getpid() or not _is_alive(pid):
                part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk: which names it has is data of its own, lost in a power cut else."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
