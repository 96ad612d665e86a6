"""What a site's updates still owe the server, in the site's store: error feedback's residuals.

::

    residual/STUDY_ID/after-0003.safetensors

A residual belongs to one update and counts from when the server has used that update: the next
one starts from the residual of the last update that was used. What an update that was refused or
came too late left out goes with it; what earlier ones owe stays owed. So a round that is asked
for again is encoded from the residual from which it was encoded before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.model.state import TensorSpec, fingerprint, mismatches, state_schema
from feat_fed.numbered import NumberedFiles
from feat_fed.tensor_file import read_tensor_file, write_tensor_file

log = logging.getLogger(__name__)


class _Header(StrictModel):
    """What a file says of itself, as JSON in the safetensors metadata."""

    schema_version: Literal[1] = 1
    kind: Literal["residual"] = "residual"
    study_id: str
    round: int
    fingerprint: str


@dataclass(frozen=True)
class ResidualStore:
    """Residuals of one study's model, below a site's store."""

    folder: Path
    study_id: str
    model: FEATConfig

    @classmethod
    def of(cls, store: Path, *, study_id: str, model: FEATConfig) -> ResidualStore:
        """Name the study's part of the site's store."""
        return cls(store / "residual" / study_id, study_id, model)

    def current(self, *, before: int, taken: int | None) -> int | None:
        """Return the round whose residual counts; None for none.

        Parameters
        ----------
        before
            The round that is encoded.
        taken
            The last round whose update the server used; None where nobody knows, and the last
            one that was encoded is taken for it.
        """
        rounds = [each for each in self._files.numbers() if each < before]
        if taken is None:
            return max(rounds, default=None)
        return taken if taken in rounds else None

    def read(self, number: int) -> dict[str, Tensor] | None:
        """Return a round's residual; a damaged or foreign one is passed over with a word."""
        path = self._files.path(number)
        try:
            header, residual = read_tensor_file(path, _Header)
            if (header.study_id, header.round) != (self.study_id, number):
                raise CheckpointError(f"{path} is of another study or round")
            of_model = header.fingerprint == fingerprint(self.model)
            if not of_model or mismatches(residual, self._schema()):
                raise CheckpointError(f"{path} is of another model")
        except CheckpointError as error:
            log.warning("what earlier updates left out is lost: %s", error)
            return None
        return residual

    def write(self, residual: Mapping[str, Tensor], *, after: int, current: int | None) -> None:
        """Keep a round's residual, the one that it was made from, and no other."""
        header = _Header(study_id=self.study_id, round=after, fingerprint=fingerprint(self.model))
        path = self._files.path(after)
        self._files.remove(but=(after, current))
        try:
            write_tensor_file(path, residual, header)
        except StorageError as error:
            path.unlink(missing_ok=True)  # of an earlier try, with other weights
            log.error("WHAT THIS UPDATE LEAVES OUT IS LOST, free some disk: %s", error)

    def _schema(self) -> dict[str, TensorSpec]:
        """Return what a residual must look like: only float32 is rounded on the way."""
        schema = state_schema(self.model)
        return {name: each for name, each in schema.items() if each.dtype == torch.float32}

    @property
    def _files(self) -> NumberedFiles:
        return NumberedFiles(self.folder, "after")
