"""Latents on disk: encoded once, whole or not there, no more of them than the site allows.

A file a clip (:mod:`.latent_file`), named by its source's hash and by all else that decides its
content, so that nothing stale can be read and a patient's latents can be found. Several processes
may share a store: each writes whole files, equal names hold equal latents, and what one uses
(:mod:`.in_use`) no other takes away to make room. When a file was last used is its time of
modification.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from feat_fed.atomic import atomic_path, sync_folder
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.in_use import InUse, is_named
from feat_fed.codec.latent_file import Recipe, StoredLatent, find_latent, write_latent
from feat_fed.config import LatentsConfig
from feat_fed.errors import DataError

GB = 10**9
_DAY_SEC = 24 * 3600.0
_LOCK_FILE = ".lock"
_RETRY_SEC = 0.1


class LatentStore:
    """A folder of latents.

    What one object has found or put stays until the object goes, whatever the bound and whoever
    else makes room; only :meth:`erase` takes it.

    Parameters
    ----------
    folder
        Made if absent, for its owner alone. Parts that killed processes left are removed, and
        latents that nobody used for ``config.keep_days``.

    Raises
    ------
    DataError
        When the folder cannot be made.
    """

    def __init__(self, folder: Path, config: LatentsConfig | None = None) -> None:
        self.folder = folder
        self.config = config or LatentsConfig()
        self._used = InUse(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._tidy()
        except OSError as error:
            raise DataError(f"the store {folder} cannot be used: {error.strerror}") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Keep :meth:`erase` and the removal of parts out for the block; nests, and is shared."""
        with self._lock(fcntl.LOCK_SH):
            yield

    def find(self, recipe: Recipe) -> StoredLatent | None:
        """Return the latent made by ``recipe`` if it is there, and note that it is used.

        A file that was cut off or altered on disk counts as absent (or is found out when its
        frames are read): it will be replaced.
        """
        path = self.folder / recipe.file_name
        self.use(path)  # before it is looked for: whoever makes room may be faster
        latent = find_latent(path, recipe)
        if latent is not None:
            with contextlib.suppress(OSError):  # removed meanwhile: reading will tell
                os.utime(path)
        return latent

    def use(self, path: Path) -> None:
        """Note that a latent of this store is used by this object.

        Raises
        ------
        DataError
            When the note cannot be written.
        """
        try:
            self._used.add(path)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written: {error.strerror}") from error

    def put(self, recipe: Recipe, encoded: EncodedClip) -> StoredLatent:
        """Write a clip's moments.

        Raises
        ------
        DataError
            When the disk is full or cannot be written.
        """
        path = self.folder / recipe.file_name
        try:
            with self.writing(), atomic_path(path) as part:
                write_latent(part, recipe, encoded)
                part.chmod(0o600)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path} cannot be written: {reason}") from error
        latent = self.find(recipe)
        if latent is None:
            raise DataError(f"{path} was written and cannot be read back; is the disk sound?")
        return latent

    def make_room(self, needed_bytes: int) -> None:
        """Remove what was unused for longest, until so much more fits ``config.max_gb``.

        Raises
        ------
        DataError
            When it cannot fit beside what this object and other processes use.
        """
        if self.config.max_gb is None:
            return
        with self._used.of_others() as theirs:
            files = self._files()
            mine = sum(stat.st_size for path, stat in files if path in self._used)
            kept = sum(stat.st_size for path, stat in files if self._stays(path, theirs))
            if needed_bytes + kept > self.config.max_gb * GB:
                raise DataError(
                    f"the latents of these clips need about {(needed_bytes + mine) / GB:.3g} GB "
                    f"and latents.max_gb is {self.config.max_gb:g}; raise it, or take fewer clips"
                    + (f" ({(kept - mine) / GB:.3g} GB are in use elsewhere)" * (kept > mine))
                )
            self._evict(needed_bytes, theirs)

    def keep_to_bound(self) -> None:
        """Remove what was unused for longest where latents came out larger than was thought."""
        with self._used.of_others() as theirs:
            self._evict(0, theirs)

    def _evict(self, needed_bytes: int, theirs: frozenset[str]) -> None:
        if self.config.max_gb is None:
            return
        files = self._files()
        excess = needed_bytes + sum(stat.st_size for _, stat in files) - self.config.max_gb * GB
        for path, stat in sorted(files, key=lambda each: each[1].st_mtime):
            if excess <= 0:
                return
            if not self._stays(path, theirs):
                path.unlink(missing_ok=True)
                excess -= stat.st_size

    def _stays(self, path: Path, theirs: frozenset[str]) -> bool:
        return path in self._used or is_named(path, theirs)

    def erase(self, sha256s: Iterable[str], *, wait_sec: float = 10.0) -> int:
        """Remove every latent of these sources, whatever the recipe; return how many files.

        Also those in use: who reads one after that is told that it has gone.

        Raises
        ------
        DataError
            When another process goes on encoding for ``wait_sec``: it might bring them back.
        """
        sources = set(sha256s)
        with self._lock(fcntl.LOCK_EX, wait_sec=wait_sec):
            found = [
                path
                for path in self.folder.glob("*.safetensors")
                if path.name.lstrip(".").split("-")[0] in sources
            ]
            try:
                for path in found:
                    path.unlink(missing_ok=True)
                sync_folder(self.folder)
            except OSError as error:
                raise DataError(
                    f"latents in {self.folder} cannot be removed: {error.strerror}"
                ) from error
        return len(found)

    def _tidy(self) -> None:
        """Remove parts, if no process is writing one, and what was kept long enough."""
        with contextlib.suppress(BlockingIOError), self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for part in self.folder.glob(".*.safetensors"):
                part.unlink(missing_ok=True)
        with self._used.of_others() as theirs:
            oldest = time.time() - (self.config.keep_days or math.inf) * _DAY_SEC
            for path, stat in self._files():
                if stat.st_mtime < oldest and not self._stays(path, theirs):
                    path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        files = []
        for path in self.folder.glob("[!.]*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                files.append((path, path.stat()))
        return files

    @contextlib.contextmanager
    def _lock(self, how: int, *, wait_sec: float | None = None) -> Iterator[None]:
        """Hold the store's lock, which ends with the process; without ``wait_sec`` wait for it."""
        with (self.folder / _LOCK_FILE).open("a") as lock:
            if wait_sec is None:
                fcntl.flock(lock, how)
            else:
                _lock_within(lock.fileno(), how, wait_sec, self.folder)
            yield


def _lock_within(descriptor: int, how: int, wait_sec: float, folder: Path) -> None:
    deadline = time.monotonic() + wait_sec
    while True:
        try:
            return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DataError(
                    f"another process is encoding clips into {folder}; stop it, or wait for it, "
                    "and erase again"
                ) from None
            time.sleep(_RETRY_SEC)
