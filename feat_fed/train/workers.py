"""A round on several devices: a process for each, and one that watches and answers them.

The workers (:mod:`feat_fed.train.worker`) get the job in files and talk over pipes of their
own. They find each other over a file and talk over loopback alone. They end with this process,
and all of them as soon as one fails or is killed, or none gives a sign of life.
"""

from __future__ import annotations

import logging
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
from feat_fed.errors import FeatFedError, MemoryShortError, StalledError, TrainingError
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

_log = logging.getLogger(__name__)

STALLED_SEC = 600.0
"""Without a sign of life from any worker, before all are ended; longer where steps are long."""

STALLED_STEPS = 20
"""As long as the slowest step so far took, times this."""

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
    stalled_sec: float = STALLED_SEC,
) -> RoundResult:
    """Train as :func:`~feat_fed.train.local.train_round`, in a process for each device, or in one.

    Where a worker runs out of memory, all begin again with half as many clips at once, from the
    last checkpoint that the hooks asked for.

    Raises
    ------
    StalledError
        If no worker gives a sign of life for ``stalled_sec``, or for as long as 20 of the
        slowest step.
    TrainingError
        If the clips are none that another process can open, or a worker ends by itself.
    FeatFedError
        Whatever class a worker's error is of.
    """
    started_sec = time.perf_counter()
    earlier_sec = job.resume.seconds if job.resume else 0.0
    sources = _source(train), None if heldout is None else _source(heldout)
    while True:
        with exchange_in(job.folder) as exchange:
            exchange.write_job(job, train=sources[0], heldout=sources[1])
            watch = _Watch(exchange, hooks, stalled_sec)
            try:
                watch.run(job)
                result = exchange.read_result()
                break
            except MemoryShortError as error:
                if watch.micro_batch is None or watch.micro_batch == 1:
                    raise
                _log.warning("%s", error)
        smaller = (watch.micro_batch + 1) // 2
        _log.warning("memory ran out: all begin again, with %d clips at once each", smaller)
        compute = job.compute.model_copy(update={"micro_batch": smaller})
        job = replace(job, compute=compute, resume=watch.kept or job.resume)
    return replace(result, seconds=earlier_sec + time.perf_counter() - started_sec)


def _source(clips: TrainingClips | HeldoutClips) -> WindowsSource:
    if not isinstance(clips, LatentWindows):
        raise TrainingError(
            f"{type(clips).__name__} cannot be opened by another process; train on latents of the "
            "site's store, or with compute.devices: 1"
        )
    return clips.source()


class _Watch:
    """Starts the workers of one attempt, answers them, and ends them."""

    def __init__(self, exchange: Exchange, hooks: RoundHooks, stalled_sec: float) -> None:
        self._exchange, self._hooks = exchange, hooks
        self._stalled_sec = stalled_sec
        self._workers: dict[Connection, Child] = {}
        self._done = 0
        self._stepped_at: float | None = None
        self._slowest_sec = 0.0
        self._wanted = self._written = False  # a checkpoint
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
                self._note_step()
                self._hooks.progress(StepProgress(**message.model_dump(exclude={"kind"})))
            case AskEnd():
                self._answer(line, EndAnswer(ended_by=self._hooks.must_end()))
            case AskKeep():
                self._wanted = False
                self._hooks.keep(lambda: self._checkpoint(line))
                if not self._wanted:
                    self._answer(line, KeepAnswer(wanted=False))
            case Kept():
                self._written = True
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
        """Let the workers make a checkpoint, and return it."""
        self._wanted, self._written = True, False
        self._answer(line, KeepAnswer(wanted=True))
        while not self._written:
            self._hear()
        self.kept = self._exchange.read_mid_round()
        return self.kept

    def _next(self) -> tuple[Connection, Message]:
        """Wait for a message of any worker."""
        patience_sec = max(self._stalled_sec, STALLED_STEPS * self._slowest_sec)
        ready = wait(self._workers, patience_sec)
        if not ready:
            raise StalledError(
                f"no training process has given a sign of life for {patience_sec:.0f} s, and all "
                f"were ended; {self._where(next(iter(self._workers)))}"
            )
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

    def _note_step(self) -> None:
        now = time.monotonic()
        if self._stepped_at is not None:
            self._slowest_sec = max(self._slowest_sec, now - self._stepped_at)
        self._stepped_at = now

    def _fail(self, line: Connection, message: Failed) -> None:
        """Raise a worker's error, or that of another which it only followed from.

        A worker that ends breaks an exchange which others are in, and they fail with an error
        of the library that they exchange with.
        """
        if message.code is None and not message.ended:
            for other, heard in self._others(line):
                if heard.code is not None or heard.ended:
                    line, message = other, heard
                    break
        kind = TrainingError if message.code is None else _ERRORS.get(message.code, TrainingError)
        name = self._workers[line].name
        told = f"{name} {message.text}" if message.ended else f"{message.text} ({name})"
        raise kind(f"{told}; {self._where(line)}")

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
