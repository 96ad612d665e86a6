"""A site's finished update, on its disk until the server has it.

::

    spool/STUDY_ID/round-0003.safetensors

An update is written before it is sent and leaves when the server has acknowledged it. Flower
acknowledges nothing to an application, so the server's next word does: it sends an assignment
for a later round, or for the scoring of the last one, only after it has written its own state.
Until then a round that is asked for again with the same weights is answered with the bytes that
were sent before, and is not trained again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from feat_fed.atomic import remove_parts
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.numbered import NumberedFiles
from feat_fed.protocol import Assignment, Report
from feat_fed.tensor_file import read_tensor_file, write_tensor_file

log = logging.getLogger(__name__)


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
        self._files.remove(but=tuple(each for each in self._files.numbers() if each > written))

    def holds(self, round_number: int) -> bool:
        """Return whether there is a file of a round, whatever is in it."""
        return round_number in self._files.numbers()

    def find(self, job: str) -> tuple[Report, dict[str, Tensor]] | None:
        """Return the update of this very job, if there is one that is whole."""
        for number in self._files.numbers():
            try:
                header, weights = read_tensor_file(self._files.path(number), _Header)
            except CheckpointError as error:
                log.warning("the round is trained again: %s", error)
                continue
            if header.job == job:
                return header.report, weights
        return None

    def write(self, job: str, report: Report, weights: Mapping[str, Tensor]) -> bool:
        """Keep an update in place of any other of the study's; return whether the disk took it.

        If not, it is sent all the same, and is trained again should it get lost on the way.

        Parameters
        ----------
        job
            :func:`feat_fed.train.mid_round.job_digest` of what was asked.
        """
        self._files.remove(but=(report.round,))
        try:
            header = _Header(job=job, report=report)
            write_tensor_file(self._files.path(report.round), weights, header)
        except StorageError as error:
            log.error("THE UPDATE IS SENT WITHOUT A COPY HERE, free some disk: %s", error)
            return False
        return True

    @property
    def _files(self) -> NumberedFiles:
        return NumberedFiles(self.folder, "round")
