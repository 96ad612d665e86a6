"""Which latents are in use: lists that end with their process, so that nobody takes them away.

Each store that is open keeps a hidden file beside the latents, locked while it lives, with a
line for each recipe it uses (the second half of a latent's name: no source's hash). Who makes
room reads the lists of the living; a list without a lock is of the dead, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import weakref
from collections.abc import Iterator
from pathlib import Path

_GUARD_FILE = ".in-use.lock"
_PREFIX = ".in-use-"


class InUse:
    """What one store object uses; a copy in another process keeps a list of its own.

    Parameters
    ----------
    folder
        Of the latents.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()
        self._path: Path | None = None
        self._file = -1

    def __reduce__(self) -> tuple[type[InUse], tuple[Path]]:
        return InUse, (self._folder,)

    def __contains__(self, path: Path) -> bool:
        return _name(path) in self._names

    def add(self, path: Path) -> None:
        """Note that a latent is used; from then on it stays, if it is there."""
        name = _name(path)
        if name in self._names:
            return
        with self._guard(fcntl.LOCK_SH):
            if self._path is None:
                self._begin()
            os.write(self._file, f"{name}\n".encode())
        self._names.add(name)

    @contextlib.contextmanager
    def of_others(self) -> Iterator[frozenset[str]]:
        """Lend the names of what living others use, while no use begins; see :func:`is_named`."""
        with self._guard(fcntl.LOCK_EX):
            others = (each for each in self._folder.glob(f"{_PREFIX}*.list") if each != self._path)
            yield frozenset(name for each in others for name in _living(each))

    def _begin(self) -> None:
        self._path = self._folder / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}.list"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._file = os.open(self._path, flags, 0o600)
        # The lock ends with the process, or with this object; a fork's copy keeps it, too.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        weakref.finalize(self, os.close, self._file)

    @contextlib.contextmanager
    def _guard(self, how: int) -> Iterator[None]:
        with (self._folder / _GUARD_FILE).open("a") as guard:
            fcntl.flock(guard, how)
            yield


def is_named(path: Path, names: frozenset[str]) -> bool:
    """Tell whether a latent is among what others use."""
    return _name(path) in names


def _name(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _living(path: Path) -> list[str]:
    """Read a list, or remove it if nobody holds it."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().split()
    except FileNotFoundError:
        return []
    path.unlink(missing_ok=True)
    return []
