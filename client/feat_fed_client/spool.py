"""A site's finished update, on its disk until the server has it.

::

    spool/STUDY_ID/round-0003.safetensors
    spool/STUDY_ID/second-0003.safetensors

The second holds the same again, for hours of training are not to hang on one file.

An update is written before it is sent and leaves when the server has acknowledged it. Flower
acknowledges nothing to an application, so the server's next word does: it sends an assignment
for a later round, or for the scoring of the last one, only after it has written its own state.
Until then a round that is asked for again with the same weights is answered with the bytes that
were sent before, and is not trained again.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from feat_fed.atomic import atomic_path, remove_parts
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.numbered import NumberedFiles
from feat_fed.protocol import Assignment, Report
from feat_fed.tensor_file import read_tensor_file, write_tensor_file

log = logging.getLogger(__name__)

_ROOM = 3
"""Files of an update's size for which there has to be room before it is copied."""


class _Header(StrictModel):
    """What a file says of itself, as JSON in the safetensors metadata."""

    schema_version: Literal[1] = 1
    kind: Literal["update"] = "update"
    job: str
    report: Report


@dataclass(frozen=True)
class Spool:
    """Updates of one study: one at most."""

    folder: Path

    @classmethod
    def of(cls, store: Path, *, study_id: str) -> Spool:
        """Name the study's part of the site's store."""
        return cls(store / "spool" / study_id)

    def settle(self, assignment: Assignment) -> None:
        """Remove what this assignment proves that the server has, and what a kill left half."""
        remove_parts(self.folder)
        written = assignment.round - (assignment.task == "train")
        for files in self._copies():
            files.remove(but=tuple(each for each in files.numbers() if each > written))

    def holds(self, round_number: int) -> bool:
        """Return whether there is a file of a round, whatever is in it."""
        return any(round_number in files.numbers() for files in self._copies())

    def find(self, job: str) -> tuple[Report, dict[str, Tensor]] | None:
        """Return the update of this very job, if there is one that is whole."""
        damaged = 0
        for path in self._paths():
            try:
                header, weights = read_tensor_file(path, _Header)
            except CheckpointError as error:
                log.warning("a copy of a finished update is lost: %s", error)
                damaged += 1
                continue
            if header.job == job:
                return header.report, weights
        if damaged:
            log.warning("the round is trained again")
        return None

    def write(self, job: str, report: Report, weights: Mapping[str, Tensor]) -> bool:
        """Keep an update in place of any other of the study's; return whether the disk took it.

        If not, it is sent all the same, and is trained again should it get lost on the way.

        Parameters
        ----------
        job
            :func:`feat_fed.train.mid_round.job_digest` of what was asked.
        """
        firsts, seconds = self._copies()
        firsts.remove(but=(report.round,))
        seconds.remove()
        try:
            write_tensor_file(firsts.path(report.round), weights, _Header(job=job, report=report))
        except StorageError as error:
            log.error("THE UPDATE IS SENT WITHOUT A COPY HERE, free some disk: %s", error)
            return False
        try:
            _copy(firsts.path(report.round), seconds.path(report.round))
        except OSError as error:
            log.warning("the update has one copy here and no second, free some disk: %s", error)
        return True

    def _copies(self) -> tuple[NumberedFiles, NumberedFiles]:
        return NumberedFiles(self.folder, "round"), NumberedFiles(self.folder, "second")

    def _paths(self) -> Iterator[Path]:
        for files in self._copies():
            yield from map(files.path, files.numbers())


def _copy(first: Path, second: Path) -> None:
    """Copy a file where the disk has room for more than that, which others need.

    A power cut may take the copy, and leaves the first.
    """
    if shutil.disk_usage(first.parent).free < _ROOM * first.stat().st_size:
        raise OSError(errno.ENOSPC, "there is little room left")
    with atomic_path(second, durable=False) as part:
        shutil.copy(first, part)
