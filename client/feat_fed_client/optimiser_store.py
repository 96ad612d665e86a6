"""The optimiser's state between a study's rounds, in the site's store.

::

    optimiser/STUDY_ID/after-0003.safetensors

A round may be asked for again, and must then start from what it started from before. So the
state of a round that was done stays until a later one is, and a round reads the newest state
that is older than itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError
from feat_fed.model.state import fingerprint, state_schema
from feat_fed.numbered import NumberedFiles
from feat_fed.tensor_file import read_tensor_file, write_tensor_file
from feat_fed.train.optimiser_state import misfit

log = logging.getLogger(__name__)


class _Header(StrictModel):
    """What a file says of itself, as JSON in the safetensors metadata."""

    schema_version: Literal[1] = 1
    kind: Literal["optimiser"] = "optimiser"
    optimiser: Literal["adamw"] = "adamw"
    study_id: str
    round: int
    fingerprint: str


@dataclass(frozen=True)
class OptimiserStore:
    """States of one study's model, below a site's store."""

    folder: Path
    study_id: str
    model: FEATConfig

    @classmethod
    def of(cls, store: Path, *, study_id: str, model: FEATConfig) -> OptimiserStore:
        """Name the study's part of the site's store."""
        return cls(store / "optimiser" / study_id, study_id, model)

    def read(self, *, before: int) -> dict[str, Tensor] | None:
        """Return the newest state of a round below ``before``; None to start with a fresh one.

        A file that is damaged or of another model is passed over with a word in the log.
        """
        rounds = [each for each in self._files.numbers() if each < before]
        if not rounds:
            return None
        path = self._files.path(max(rounds))
        try:
            return self._checked(path, max(rounds))
        except CheckpointError as error:
            log.warning("the optimiser starts afresh: %s", error)
            return None

    def write(self, state: Mapping[str, Tensor], *, after: int) -> None:
        """Keep the state after a round, and of those before it the newest alone.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        header = _Header(study_id=self.study_id, round=after, fingerprint=fingerprint(self.model))
        write_tensor_file(self._files.path(after), state, header)
        earlier = max((each for each in self._files.numbers() if each < after), default=after)
        self._files.remove(but=(earlier, after))

    @property
    def _files(self) -> NumberedFiles:
        return NumberedFiles(self.folder, "after")

    def _checked(self, path: Path, number: int) -> dict[str, Tensor]:
        """Return a file's state, or raise CheckpointError."""
        header, state = read_tensor_file(path, _Header)
        if (header.study_id, header.round) != (self.study_id, number):
            raise CheckpointError(f"{path} is of another study or round")
        shapes = {name: spec.shape for name, spec in state_schema(self.model).items()}
        if header.fingerprint != fingerprint(self.model) or misfit(state, shapes):
            raise CheckpointError(f"{path} is of another model")
        return state
