"""A round that is under way, on the site's disk, so that it outlives its process.

The file names the job that it belongs to by a digest of all that the round's outcome depends
on. A round that is asked for again with the same weights finds it; any other one does not.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.tensor_file import hash_tensors, read_tensor_file, write_tensor_file
from feat_fed.train.jobs import MidRound, RoundJob
from feat_fed.train.tensors import joined, parted

log = logging.getLogger(__name__)


class _Header(StrictModel):
    """What a file says of itself, as JSON in the safetensors metadata."""

    schema_version: Literal[1] = 1
    kind: Literal["mid-round"] = "mid-round"
    job: str
    losses: tuple[float, ...]
    skipped_steps: int
    seconds: float
    micro_batch: int
    heldout_loss: float | None


@dataclass(frozen=True)
class MidRoundFile:
    """The one file of a site's round that is under way."""

    path: Path
    job: str
    """Of the round: :func:`job_digest` with the site's clips."""

    def read(self) -> MidRound | None:
        """Return what this very round left; None where there is nothing that can be used."""
        if not self.path.exists():
            return None
        try:
            header, tensors = read_tensor_file(self.path, _Header)
        except CheckpointError as error:
            log.warning("the round begins anew: %s", error)
            return None
        if header.job != self.job:
            return None
        weights, state = parted(tensors)
        return MidRound(
            losses=header.losses,
            skipped_steps=header.skipped_steps,
            seconds=header.seconds,
            micro_batch=header.micro_batch,
            heldout_loss=header.heldout_loss,
            weights=weights,
            optimiser_state=state,
        )

    def write(self, state: MidRound) -> None:
        """Put the state in place of what was there.

        Raises
        ------
        StorageError
            If it cannot be written, as on a full disk.
        """
        header = _Header(
            job=self.job,
            losses=state.losses,
            skipped_steps=state.skipped_steps,
            seconds=state.seconds,
            micro_batch=state.micro_batch,
            heldout_loss=state.heldout_loss,
        )
        write_tensor_file(self.path, joined(state.weights, state.optimiser_state), header)

    def remove(self) -> None:
        """Forget the round: it is done, or nobody wants it any more."""
        self.path.unlink(missing_ok=True)


@dataclass
class Checkpoints:
    """Writes the file when it is time for it; a checkpoint that fails costs no round.

    Parameters
    ----------
    every_sec
        Between two of them; None: never.
    written
        Called after each that was written.
    """

    file: MidRoundFile
    every_sec: float | None
    written: Callable[[], None] = lambda: None
    _last_sec: float = field(default_factory=time.monotonic)

    def keep(self, state: Callable[[], MidRound]) -> None:
        """Be ``RoundHooks.keep``."""
        if self.every_sec is None or time.monotonic() - self._last_sec < self.every_sec:
            return
        try:
            self.file.write(state())
        except StorageError as error:
            log.error("the round goes on without this checkpoint: %s", error)
        else:
            self.written()
        # Counted from the end: writing that takes long does not eat up the training.
        self._last_sec = time.monotonic()


def job_digest(job: RoundJob, *, weights: str) -> str:
    """Return the SHA-256 of all that a round's outcome depends on, but the site's clips.

    The device, the number of processes and the memory are not part of it: a round may go on
    after they have changed, and then differs by rounding alone. Neither are minutes, which
    change no step.

    Parameters
    ----------
    weights
        Digest of the job's (:func:`feat_fed.federate.digest_of`).
    """
    sha = hashlib.sha256()
    training = job.training.model_copy(update={"local_minutes": None})
    parts = [each.model_dump_json() for each in (job.model, job.diffusion, training)]
    if job.privacy is not None:
        parts.append(job.privacy.model_dump_json())
    for part in [*parts, job.seed, job.first_step, job.total_steps, job.label, weights]:
        sha.update(f"{part}\0".encode())
    hash_tensors(sha, job.optimiser_state or {})
    return sha.hexdigest()
