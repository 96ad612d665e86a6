"""A round on several devices: a process for each, and one that watches and answers them.

The workers (:mod:`feat_fed.train.worker`) get the job in files and talk over pipes of their
own. They find each other over a file and talk over loopback alone. They end with this process,
and all of them as soon as one fails or is killed, or none gives a sign of life.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from subprocess import TimeoutExpired
from sys import executable

import feat_fed.errors
from feat_fed.codec import LatentWindows, WindowsSource
from feat_fed.errors import (
    DeviceError,
    FeatFedError,
    MemoryShortError,
    StalledError,
    StorageError,
    TrainingError,
)
from feat_fed.processes import Child, ChildGroup, describe_exit
from feat_fed.train.device import resolve_device, threads_of
from feat_fed.train.exchange import (
    Alive,
    AskEnd,
    AskKeep,
    Done,
    EndAnswer,
    Exchange,
    Failed,
    Fitted,
    KeepAnswer,
    KeepFailed,
    Kept,
    Message,
    Said,
    Stepped,
    exchange_in,
    parse_message,
)
from feat_fed.train.jobs import (
    HeldoutClips,
    MidRound,
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    TrainingClips,
)
from feat_fed.train.memory import oom_kills
from feat_fed.train.patience import Patience, Pulse

_log = logging.getLogger(__name__)

_COMMAND = (executable, "-m", "feat_fed.train.worker")
_EXIT_SEC = 5.0
_OTHERS_SEC = 2.0
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_ERRORS: Mapping[str, type[FeatFedError]] = {
    each.code: each
    for each in vars(feat_fed.errors).values()
    if isinstance(each, type) and issubclass(each, FeatFedError)
}


def train_in_workers(
    job: RoundJob,
    *,
    train: TrainingClips,
    heldout: HeldoutClips | None,
    hooks: RoundHooks,
    patience: Patience | None = None,
) -> RoundResult:
    """Train as :func:`~feat_fed.train.local.train_round`, in a process for each device, or in one.

    Where a worker is killed, all fall silent, or memory runs out (then with half as many clips
    at once), all begin again from the last checkpoint that the hooks asked for.

    Raises
    ------
    StalledError
        If no worker gives a sign of life, again and again.
    TrainingError
        If the clips are none that another process can open, or workers end without a word
        again and again.
    FeatFedError
        Whatever class a worker's error is of.
    """
    started_sec, patience = time.perf_counter(), patience or Patience()
    earlier_sec = job.resume.seconds if job.resume else 0.0
    lost = 0
    sources = _source(train), None if heldout is None else _source(heldout)
    while True:
        with exchange_in(job.folder) as exchange:
            exchange.write_job(job, train=sources[0], heldout=sources[1])
            watch = _Watch(exchange, hooks, patience)
            try:
                watch.run(job)
                result = exchange.read_result()
                break
            except (MemoryShortError, _LostError, StalledError) as error:
                clips = watch.micro_batch or 1
                if isinstance(error, MemoryShortError) and clips > 1:
                    smaller = (clips + 1) // 2
                    _log.warning("%s: all begin again, with %d clips at once", error, smaller)
                    compute = job.compute.model_copy(update={"micro_batch": smaller})
                    job = replace(job, compute=compute)
                else:
                    lost = 1 if watch.kept else lost + 1
                    if lost == patience.deaths or type(error) is MemoryShortError:
                        raise
                    _log.error("%s: all begin again", error)
        hooks.alive()
        job = replace(job, resume=watch.kept or job.resume)
    return replace(result, seconds=earlier_sec + time.perf_counter() - started_sec)


def _source(clips: TrainingClips | HeldoutClips) -> WindowsSource:
    if not isinstance(clips, LatentWindows):
        raise TrainingError(
            f"{type(clips).__name__} cannot be opened by another process; train on latents of the "
            "site's store, or with compute.devices: 1"
        )
    return clips.source()


class _LostError(TrainingError):
    """A worker has ended without a word."""


class _LostForMemoryError(MemoryShortError):
    """The kernel has killed a worker, for memory ran out."""


class _Watch:
    """Starts the workers of one attempt, answers them, and ends them."""

    def __init__(self, exchange: Exchange, hooks: RoundHooks, patience: Patience) -> None:
        self._exchange, self._hooks = exchange, hooks
        self._pulse = Pulse(patience)
        self._workers: dict[Connection, Child] = {}
        self._done = 0
        self._wanted = False  # a checkpoint
        self._written: Kept | KeepFailed | None = None
        self._oom_kills = oom_kills()
        self.micro_batch: int | None = None
        """Clips that a worker takes at once, when that is known."""
        self.kept: MidRound | None = None
        """The last checkpoint."""

    def run(self, job: RoundJob) -> None:
        """Return when all workers are done; none of them is left then, or after an error."""
        size, logs = job.compute.num_devices, job.folder or self._exchange.folder
        with ChildGroup() as group:
            try:
                for rank in range(size):
                    self._start(group, job, rank, logs)
                while self._done < size:
                    self._hear()
            finally:
                for line in self._workers:
                    line.close()

    def _start(self, group: ChildGroup, job: RoundJob, rank: int, logs: Path) -> None:
        size, folder = job.compute.num_devices, self._exchange.folder
        log_file = logs / f"worker-{rank}.log"
        log_file.unlink(missing_ok=True)
        device = resolve_device(job.compute, rank)
        environment = {
            "RANK": rank,
            "WORLD_SIZE": size,
            # DeepSpeed takes it for the GPU's number.
            "LOCAL_RANK": rank if device.index is None else device.index,
            "OMP_NUM_THREADS": threads_of(job.compute),
        }
        ours, theirs = Pipe()
        with theirs:
            child = group.start(
                f"training process {rank + 1} of {size}",
                [*_COMMAND, str(folder), str(rank), str(size), str(theirs.fileno())],
                log_file=log_file,
                env=_LOOPBACK | {name: str(each) for name, each in environment.items()},
                pass_fds=[theirs.fileno()],
            )
        self._workers[ours] = child

    def _hear(self) -> None:
        """Take one message, of any worker, and do what it asks for."""
        line, message = self._next()
        match message:
            case Fitted():
                if self.micro_batch is None:
                    self._hooks.fitted(message.micro_batch)
                self.micro_batch = message.micro_batch
            case Stepped():
                self._pulse.stepped()
                self._hooks.progress(StepProgress(**message.model_dump(exclude={"kind"})))
            case AskEnd():
                self._answer(line, EndAnswer(ended_by=self._hooks.must_end()))
            case AskKeep():
                self._wanted = False
                self._hooks.keep(lambda: self._checkpoint(line))
                if not self._wanted:
                    self._answer(line, KeepAnswer(wanted=False))
            case Kept() | KeepFailed():
                self._written = message
            case Said():
                logging.getLogger(message.logger).log(message.level, "%s", message.text)
            case Failed():
                self._fail(line, message)
            case Done():
                self._done += 1
            case Alive():
                pass
        self._hooks.alive()

    def _checkpoint(self, line: Connection) -> MidRound:
        """Let the workers make a checkpoint, and return it.

        Raises
        ------
        StorageError
            If it cannot be written, and for nothing else: the workers go on after it.
        """
        self._wanted, self._written = True, None
        self._answer(line, KeepAnswer(wanted=True))
        try:
            while self._written is None:
                self._hear()
        except StorageError as error:
            raise TrainingError(str(error)) from error
        if isinstance(self._written, KeepFailed):
            raise StorageError(self._written.text)
        self.kept = self._exchange.take_mid_round()
        return self.kept

    def _next(self) -> tuple[Connection, Message]:
        """Wait for a message of any worker."""
        allowed_sec = self._pulse.allowed_sec
        ready = wait(self._workers, allowed_sec)
        if not ready:
            raise StalledError(
                f"no training process has given a sign of life for {allowed_sec:.0f} s, and all "
                f"were ended; {self._where(next(iter(self._workers)))}"
            )
        self._pulse.alive()
        return self._read(ready[0])

    def _read(self, ready: object) -> tuple[Connection, Message]:
        """Read a message, or put one in place of a worker that ended without a word."""
        line = next(each for each in self._workers if each is ready)
        try:
            return line, parse_message(line.recv_bytes())
        except (EOFError, ConnectionError):
            return line, Failed(code=None, text=f"has ended ({self._exit_of(line)})", ended=True)

    def _answer(self, line: Connection, answer: EndAnswer | KeepAnswer) -> None:
        with suppress(ConnectionError):  # that it has ended is heard next
            line.send_bytes(answer.model_dump_json().encode())

    def _fail(self, line: Connection, message: Failed) -> None:
        """Raise a worker's error, or that of another which it only followed from.

        A worker that ends breaks an exchange which others are in, and they fail with an error
        of the library that they exchange with. NCCL's looks like that of a device.
        """
        if _may_follow(message):
            for other, heard in self._others(line):
                if not _may_follow(heard) or (heard.code and not message.code):
                    line, message = other, heard
                if not _may_follow(message):
                    break
        name = self._workers[line].name
        if message.ended:
            text = f"{name} {message.text}; {self._where(line)}"
            killed = self._workers[line].process.returncode == -signal.SIGKILL
            if killed and oom_kills() > self._oom_kills:
                raise _LostForMemoryError(f"memory ran out: {text}")
            raise _LostError(text)
        kind = _ERRORS.get(message.code or TrainingError.code, TrainingError)
        raise kind(f"{message.text} ({name}); {self._where(line)}")

    def _others(self, line: Connection) -> Iterator[tuple[Connection, Failed]]:
        """Yield how other workers end in the next moments."""
        waiting = [each for each in self._workers if each is not line]
        deadline = time.monotonic() + _OTHERS_SEC
        while waiting and (ready := wait(waiting, max(0.0, deadline - time.monotonic()))):
            other, message = self._read(ready[0])
            if isinstance(message, Failed):
                waiting.remove(other)
                yield other, message

    def _exit_of(self, line: Connection) -> str:
        process = self._workers[line].process
        with suppress(TimeoutExpired):
            return describe_exit(process.wait(_EXIT_SEC))
        return "its pipe alone"

    def _where(self, line: Connection) -> str:
        """Say where a worker's log is, or show its end where that goes with the folder."""
        child = self._workers[line]
        if child.log_file.is_relative_to(self._exchange.folder):
            return f"the end of its log:\n{child.tail()}"
        return f"its log is {child.log_file}"


def _may_follow(message: Failed) -> bool:
    """Whether the error may be but the echo of another worker's."""
    return not message.ended and message.code in (None, DeviceError.code)
