"""Evaluations on the disk: a line each, whole or not there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from feat_fed.errors import RunError
from feat_fed.measured import Evaluation


def require_appendable(path: Path) -> None:
    """Find out whether a file of evaluations can be written, before hours go into one.

    Raises
    ------
    RunError
        When it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    if not path.is_file():
        raise RunError(f"{path} is no file that lines are kept in; name one")


def append_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Add a line to a file of evaluations and flush it; a torn last line is cut off first.

    Several processes may do so at once: a lock on the file, which ends with its holder, puts
    them in order.

    Raises
    ------
    RunError
        When the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.seek(0, os.SEEK_END)
            file.write(evaluation.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
