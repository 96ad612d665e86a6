"""Evaluations on the disk: a line each, whole or not there."""

from __future__ import annotations

from pathlib import Path

from feat_fed.atomic import append_line
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

    Raises
    ------
    RunError
        When the file cannot be written.
    """
    try:
        append_line(path, evaluation.model_dump_json().encode())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
