"""Rounds' files that are held while they are measured, and for as long as they are the best.

The server's rotation removes files of rounds whenever it likes and knows nothing of the evaluator.
A second name for a file (a hard link) is given in one step and needs no room: the file stays for
as long as it has one of its names. So neither process waits for the other or touches its files,
and what a killed evaluator leaves is names, which the next one takes away.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from feat_fed.atomic import atomic_path, remove_parts
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.round_manifest import read_manifest
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest

_NUMBER = re.compile(r"[a-z]+-(\d+)\.(?:safetensors|json)")


class GoneError(Exception):
    """A round's files have been removed, or are replaced at this moment."""


class HeldRun(RunStore):
    """The run as its evaluator reads it: rounds' files by the names under which they are held."""

    def checkpoint(self, round_number: int) -> Path:
        """Name the held file of the global weights."""
        return self._held(super().checkpoint(round_number))

    def ema(self, round_number: int) -> Path:
        """Name the held file of the averaged weights."""
        return self._held(super().ema(round_number))

    def manifest(self, round_number: int) -> Path:
        """Name the held manifest."""
        return self._held(super().manifest(round_number))

    def _held(self, path: Path) -> Path:
        return EvaluationFolder.of_run(self.root).checkpoints / path.name


class HeldRounds:
    """The files of ``RUN/evaluation/checkpoints``; one process at a time may change them.

    Parameters
    ----------
    store
        The run.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._folder = EvaluationFolder.of_run(store.root).checkpoints
        self.run = HeldRun(store.root)

    def hold(self, number: int) -> str:
        """Hold a round's files; return the SHA-256 of its averaged weights.

        Raises
        ------
        GoneError
            If it has none any more.
        StorageError
            If they cannot be held.
        """
        store = self._store
        # The manifest is the last to be there and the first to go.
        files = (store.ema(number), store.checkpoint(number), store.manifest(number))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in files:
                _hold(path, self._folder / path.name)
        except FileNotFoundError:
            pass  # it may be held already
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written: {error}") from error
        digest = self.digest(number)
        if digest is None:  # gone, or done again between two of the files
            raise GoneError
        return digest

    def rounds(self) -> list[int]:
        """Return the rounds that are held, in order."""
        found = {
            int(match[1])
            for path in (self._folder.iterdir() if self._folder.is_dir() else ())
            if (match := _NUMBER.fullmatch(path.name))
        }
        return [each for each in sorted(found) if self.digest(each) is not None]

    def digest(self, number: int) -> str | None:
        """Return the SHA-256 of a held round's averaged weights, or None where it is not held."""
        ema = self.run.ema(number)
        with contextlib.suppress(CheckpointError):
            told = read_manifest(self.run.manifest(number)).files.get(ema.name)
            return told if told == read_digest(ema) else None
        return None

    def keep_only(self, *numbers: int | None) -> None:
        """Let go of all other rounds."""
        if not self._folder.is_dir():
            return
        remove_parts(self._folder)
        # Manifests (.json) first: a kill in between leaves no round that seems whole.
        for path in sorted(self._folder.iterdir(), key=lambda each: each.suffix):
            match = _NUMBER.fullmatch(path.name)
            if match and int(match[1]) not in numbers:
                path.unlink(missing_ok=True)


def _hold(path: Path, name: Path) -> None:
    """Give a file a second name; where the file system has no such thing, make a copy."""
    if name.exists() and name.samefile(path):
        return
    with atomic_path(name) as part:
        try:
            os.link(path, part)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, part)
