"""What processes that train together are given, say and give back.

Files in a folder of their own: the job and the clips' source as JSON, tensors as tensor files.
Messages over a pipe to whom started them: JSON again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from torch import Tensor

from feat_fed.atomic import write_bytes_atomically
from feat_fed.codec import WindowsSource
from feat_fed.config import (
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    PatientPrivacyConfig,
    TrainingConfig,
)
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.protocol import EndedBy
from feat_fed.tensor_file import read_tensor_file, write_tensor_file
from feat_fed.train.jobs import MidRound, RoundJob, RoundResult
from feat_fed.train.mid_round import MidRoundFile
from feat_fed.train.tensors import joined, parted

_log = logging.getLogger(__name__)

_PREFIX = "round-"


class Alive(StrictModel):
    """The worker goes on."""

    kind: Literal["alive"] = "alive"


class Fitted(StrictModel):
    """So many clips fit at once."""

    kind: Literal["fitted"] = "fitted"
    micro_batch: int


class Stepped(StrictModel):
    """A step was taken: :class:`~feat_fed.train.jobs.StepProgress`."""

    kind: Literal["stepped"] = "stepped"
    step: int
    steps: int
    loss: float | None
    clips_per_sec: float
    seconds: float
    gradient_norm: float
    learning_rate: float
    memory_bytes: int


class AskEnd(StrictModel):
    """Is the round to end now? Answered with :class:`EndAnswer`."""

    kind: Literal["end?"] = "end?"


class EndAnswer(StrictModel):
    """What ends the round, if anything."""

    ended_by: EndedBy | None


class AskKeep(StrictModel):
    """Is a checkpoint wanted? Answered with :class:`KeepAnswer`; if so, its outcome follows."""

    kind: Literal["keep?"] = "keep?"


class KeepAnswer(StrictModel):
    """Whether a checkpoint is to be made."""

    wanted: bool


class Kept(StrictModel):
    """The checkpoint is in its file."""

    kind: Literal["kept"] = "kept"


class KeepFailed(StrictModel):
    """The checkpoint cannot be written, and the workers go on without it."""

    kind: Literal["keep failed"] = "keep failed"
    text: str


class Said(StrictModel):
    """A line for the log."""

    kind: Literal["said"] = "said"
    level: int
    logger: str
    text: str


class Failed(StrictModel):
    """The worker cannot go on."""

    kind: Literal["failed"] = "failed"
    code: str | None
    """Of our error's class; None for an error of another kind."""
    text: str
    ended: bool = False
    """It said nothing and ended, and this is said in its place."""


class Done(StrictModel):
    """The worker has nothing left to do; the first one's result is in its file."""

    kind: Literal["done"] = "done"


Message = Alive | Fitted | Stepped | AskEnd | AskKeep | Kept | KeepFailed | Said | Failed | Done

_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def parse_message(data: bytes) -> Message:
    """Return a worker's message."""
    return _MESSAGE.validate_json(data)


class _Job(StrictModel):
    """All of a job and its clips but the tensors."""

    model: FEATConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    compute: ComputeConfig
    label: int | None
    seed: int
    first_step: int
    total_steps: int
    privacy: PatientPrivacyConfig | None
    train: WindowsSource
    heldout: WindowsSource | None


class _Header(StrictModel):
    """Of a file with tensors of the job or of the result."""

    kind: Literal["job", "result"]
    has_state: bool


class _Result(StrictModel):
    """All of a result but the tensors."""

    train_loss: float
    heldout_loss: float | None
    steps: int
    skipped_steps: int
    ended_by: EndedBy
    examples: int
    seconds: float


@dataclass(frozen=True)
class Exchange:
    """The files of one round in ``folder``."""

    folder: Path

    @property
    def rendezvous(self) -> Path:
        """Where the workers find each other."""
        return self.folder / "rendezvous"

    @property
    def _mid_round(self) -> MidRoundFile:
        return MidRoundFile(self.folder / "mid-round.safetensors", "here")

    @property
    def _resume(self) -> MidRoundFile:
        return MidRoundFile(self.folder / "resume.safetensors", "here")

    def write_job(
        self, job: RoundJob, *, train: WindowsSource, heldout: WindowsSource | None
    ) -> None:
        """Leave a job for the workers."""
        told = _Job(
            model=job.model,
            diffusion=job.diffusion,
            training=job.training,
            compute=job.compute,
            label=job.label,
            seed=job.seed,
            first_step=job.first_step,
            total_steps=job.total_steps,
            privacy=job.privacy,
            train=train,
            heldout=heldout,
        )
        self._write_json("job.json", told)
        self._write_tensors("job", job.weights, job.optimiser_state)
        if job.resume is not None:
            self._resume.write(job.resume)

    def read_job(self) -> tuple[RoundJob, WindowsSource, WindowsSource | None]:
        """Return the job and where its clips for training and for scoring are."""
        told = _Job.model_validate_json((self.folder / "job.json").read_bytes())
        weights, state = self._read_tensors("job")
        job = RoundJob(
            model=told.model,
            diffusion=told.diffusion,
            training=told.training,
            compute=told.compute,
            label=told.label,
            seed=told.seed,
            first_step=told.first_step,
            total_steps=told.total_steps,
            weights=weights,
            optimiser_state=state,
            privacy=told.privacy,
            resume=self._resume.read(),
        )
        return job, told.train, told.heldout

    def write_result(self, result: RoundResult) -> None:
        """Leave the result for whom started the workers, in the place of their job.

        Where the disk is too full for the optimiser's state, without it.

        Raises
        ------
        StorageError
            If not even the weights can be written.
        """
        self._tensors("job").unlink(missing_ok=True)
        self._resume.remove()
        fields = {name: getattr(result, name) for name in _Result.model_fields}
        self._write_json("result.json", _Result(**fields))
        try:
            self._write_tensors("result", result.weights, result.optimiser_state)
        except StorageError as error:
            if result.optimiser_state is None:
                raise
            self._write_tensors("result", result.weights, None)
            _log.error("THE NEXT ROUND STARTS WITH AN OLDER OPTIMISER, free some disk: %s", error)

    def read_result(self) -> RoundResult:
        """Return the workers' result."""
        told = _Result.model_validate_json((self.folder / "result.json").read_bytes())
        weights, state = self._read_tensors("result")
        return RoundResult(**dict(told), weights=weights, optimiser_state=state)

    def write_mid_round(self, state: MidRound) -> None:
        """Leave a checkpoint in place of the one before."""
        self._mid_round.write(state)

    def take_mid_round(self) -> MidRound:
        """Return the last checkpoint, whose file goes: it would take the disk from the result.

        Raises
        ------
        CheckpointError
            If there is none, or it is damaged.
        """
        state = self._mid_round.read()
        if state is None:
            raise CheckpointError(f"{self._mid_round.path} cannot be read back; is the disk sound?")
        self._mid_round.remove()
        return state

    def _tensors(self, kind: Literal["job", "result"]) -> Path:
        return self.folder / f"{kind}.safetensors"

    def _write_json(self, name: str, told: StrictModel) -> None:
        data = told.model_dump_json().encode()
        path = self.folder / name
        try:
            write_bytes_atomically(path, data, mode=0o600, durable=False)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}") from error

    def _write_tensors(
        self,
        kind: Literal["job", "result"],
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor] | None,
    ) -> None:
        header = _Header(kind=kind, has_state=state is not None)
        write_tensor_file(self._tensors(kind), joined(weights, state or {}), header, durable=False)

    def _read_tensors(
        self, kind: Literal["job", "result"]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        header, tensors = read_tensor_file(self._tensors(kind), _Header)
        weights, state = parted(tensors)
        return weights, state if header.has_state else None


@contextmanager
def exchange_in(parent: Path | None) -> Iterator[Exchange]:
    """Lend a folder of its own in ``parent``, which goes with the block.

    What processes that were killed have left there goes first. Without a parent the folder is
    a temporary one.
    """
    if parent is None:
        with tempfile.TemporaryDirectory(prefix="feat-fed-") as name:
            yield Exchange(Path(name))
        return
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = parent / f"{_PREFIX}{secrets.token_hex(4)}"
    with _alone_in(parent):
        _clear(parent)
        folder.mkdir(mode=0o700)
        # The lock says that the folder's owner lives, and ends with it.
        owned = os.open(folder, os.O_RDONLY)
        fcntl.flock(owned, fcntl.LOCK_EX)
    try:
        yield Exchange(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owned)


def clear_exchanges(parent: Path) -> None:
    """Remove the folders that killed processes have left in ``parent``; living ones' stay."""
    if parent.is_dir():
        with _alone_in(parent):
            _clear(parent)


@contextmanager
def _alone_in(parent: Path) -> Iterator[None]:
    """Between a folder's making and its lock nobody else must look at it."""
    with (parent / ".lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _clear(parent: Path) -> None:
    """Remove the folders whose owners have died."""
    for folder in parent.glob(f"{_PREFIX}*"):
        # Somebody's who lives, or who is just removing it.
        with suppress(BlockingIOError, FileNotFoundError), _opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
