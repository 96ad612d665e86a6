"""Records of a run's folder that are appended: a model a line, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from feat_fed.atomic import append_line
from feat_fed.errors import RunError

_M = TypeVar("_M", bound=BaseModel)


def require_appendable(path: Path) -> None:
    """Find out whether records can be added to a file, before hours go into one.

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


def append_record(path: Path, record: BaseModel) -> None:
    """Add a line to a file and flush it; a torn last line is cut off first.

    Raises
    ------
    RunError
        When the file cannot be written.
    """
    try:
        append_line(path, record.model_dump_json().encode())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def whole_records(path: Path, kind: type[_M]) -> tuple[_M, ...]:
    """Return the records of a file, as they were appended; none where there is no file.

    A line that is none is passed over: what a crash left of an append, or another version's.

    Raises
    ------
    RunError
        If the file is there and cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    found = []
    for line in lines:
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError:
            continue
    return tuple(found)
