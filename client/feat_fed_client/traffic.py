"""The bytes of weights that a round moves, against what the site allows.

What travelled is counted in ``traffic.json`` in the site's store, so that a question that comes
again and an update that is sent again count like the first.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from feat_fed.atomic import remove_parts, write_bytes_atomically
from feat_fed.config import LimitsConfig
from feat_fed.config.base import StrictModel
from feat_fed.protocol import Assignment, StudyId, Task
from feat_fed_client.limits import DeclinedError

FILE = "traffic.json"

_GB = 10**9
_KEPT = 8

log = logging.getLogger(__name__)


class _Moved(StrictModel):
    """What a task of a study's round has moved so far."""

    study_id: StudyId
    round: int
    task: Task
    moved_bytes: int = Field(ge=0)
    message_id: str
    """Of the last message that was counted."""

    def is_of(self, assignment: Assignment) -> bool:
        told = (assignment.study_id, assignment.round, assignment.task)
        return (self.study_id, self.round, self.task) == told


class _File(StrictModel):
    """The last tasks, the latest at the end."""

    tasks: tuple[_Moved, ...] = ()


@dataclass(frozen=True)
class Traffic:
    """What one assignment moves, through all the times that it is sent."""

    store: Path
    assignment: Assignment

    @property
    def moved_bytes(self) -> int:
        """In and out together, so far."""
        moved = self._moved()
        return moved.moved_bytes if moved else 0

    def received(self, size_bytes: int, *, message_id: str) -> None:
        """Count a message's weights, once also where the work on it is begun again."""
        moved = self._moved()
        if not (message_id and moved and moved.message_id == message_id):
            self._add(size_bytes, message_id)

    def sent(self, size_bytes: int) -> None:
        """Count an update that is about to be sent."""
        moved = self._moved()
        self._add(size_bytes, moved.message_id if moved else "")

    def require(self, limits: LimitsConfig, *, up_bytes: int) -> None:
        """Raise :class:`.limits.DeclinedError` if the answer would exceed what a round may move.

        Parameters
        ----------
        up_bytes
            Of the answer's weights.
        """
        moved_bytes = self.moved_bytes
        if limits.gb_per_round is not None and moved_bytes + up_bytes > limits.gb_per_round * _GB:
            raise DeclinedError(
                "traffic",
                f"this round's weights came to {moved_bytes / _GB:.3g} GB so far and another "
                f"{up_bytes / _GB:.3g} GB would be sent, and limits.gb_per_round allows "
                f"{limits.gb_per_round:g} GB; raise the limit or leave the study",
            )

    def _moved(self) -> _Moved | None:
        return next((each for each in self._tasks() if each.is_of(self.assignment)), None)

    def _tasks(self) -> tuple[_Moved, ...]:
        return _read(self.store)

    def _add(self, size_bytes: int, message_id: str) -> None:
        told = self.assignment
        moved = _Moved(
            study_id=told.study_id,
            round=told.round,
            task=told.task,
            moved_bytes=self.moved_bytes + size_bytes,
            message_id=message_id,
        )
        others = [each for each in self._tasks() if not each.is_of(told)]
        content = _File(tasks=(*others[1 - _KEPT :], moved)).model_dump_json()
        try:
            self.store.mkdir(parents=True, exist_ok=True)
            remove_parts(self.store, FILE)
            write_bytes_atomically(self.store / FILE, content.encode(), durable=False)
        except OSError as error:
            log.warning("%d bytes of weights are not counted: %s", size_bytes, error.strerror)


def moved_bytes(store: Path) -> int:
    """Return the bytes of weights, in and out, of the last tasks that are counted."""
    return sum(each.moved_bytes for each in _read(store))


def _read(store: Path) -> tuple[_Moved, ...]:
    with contextlib.suppress(OSError, ValidationError):
        return _File.model_validate_json((store / FILE).read_bytes()).tasks
    return ()
