"""A role's state between two stages, in a file that only its owner reads."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import CheckpointError, StorageError

StateT = TypeVar("StateT", bound=BaseModel)

_MEND = "remove it, and the round is asked again with new keys"


def write_state(path: Path, state: BaseModel) -> None:
    """Write a state, whole and durable, with mode 0600; the folder is made where it is missing.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes_atomically(path, state.model_dump_json().encode(), mode=0o600)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error}") from error


def read_state(path: Path, kind: type[StateT], *, mend: str = _MEND) -> StateT | None:
    """Return the state in a file; None where there is none.

    Parameters
    ----------
    mend
        What whoever finds it damaged is told to do.

    Raises
    ------
    CheckpointError
        If the file cannot be read, or is damaged.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{path} is damaged or cannot be read ({type(error).__name__}); {mend}"
        ) from None
