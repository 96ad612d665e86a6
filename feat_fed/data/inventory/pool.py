"""Work on files that may hang, crash their decoder or eat the memory, in processes that may die.

Pebble's pool, because it ends a worker that takes too long and goes on after one that crashed;
the standard library's breaks with its first dead worker and cannot end a task.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Generic, TypeVar

import psutil

from feat_fed.child import end_with_parent
from feat_fed.errors import DataError, FeatFedError

TOO_SLOW = "takes too long to read"
CRASHED = "crashes the decoder"
NO_MEMORY = "needs more memory than a file may take"
UNEXPECTED = "cannot be handled"

_MIB = 2**20
_TASKS_A_WORKER = 200  # then a fresh one: a library that leaks would eat the next files' share
_QUEUED_A_WORKER = 4
_FILES_WORTH_A_WORKER = 16
_BYTES_WORTH_A_WORKER = 16 * 2**20
_BROKEN_POOLS = 3

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Limits:
    """What a file may take before its row says so.

    Parameters
    ----------
    base_sec, sec_per_mib
        Time: the second is there for a long video of still pictures, which packs many frames
        into few bytes.
    memory_bytes
        Of a worker's own data; ``None``: a worker's share of three quarters of this machine's,
        and at least 2 GiB.
    """

    base_sec: float = 120.0
    sec_per_mib: float = 4.0
    memory_bytes: int | None = None

    def seconds(self, size_bytes: int) -> float:
        """Return how long files of this size may take."""
        return self.base_sec + self.sec_per_mib * size_bytes / _MIB

    def memory(self, workers: int) -> int:
        """Return the bytes that each of so many workers may have."""
        share = psutil.virtual_memory().total * 3 // 4 // workers
        return self.memory_bytes or max(share, 2 * 1024 * _MIB)


@dataclass(frozen=True)
class Task(Generic[KeyT]):
    """Arguments of the work, the size of its files, and what the caller knows it by."""

    key: KeyT
    arguments: tuple[object, ...]
    size_bytes: int


def work_on(
    tasks: Sequence[Task[KeyT]],
    work: Callable[..., ResultT],
    *,
    workers: int,
    limits: Limits,
) -> Iterator[tuple[Task[KeyT], ResultT | str]]:
    """Yield each task with its result, as they come, or with a phrase that says what went wrong.

    Parameters
    ----------
    work
        A function of a module, for the workers import it.
    workers
        Processes at most; 0 for one a CPU core that this process may use. Each takes a second to
        start, so few small files get few of them.

    Raises
    ------
    DataError
        When no worker can be started.
    FeatFedError
        What ``work`` raises of its own accord.
    """
    left = {index: task for index, task in enumerate(tasks)}
    for _ in range(_BROKEN_POOLS):
        if not left:
            return
        try:
            for index, result in _in_pool(left, work, workers or cores(), limits):
                yield left.pop(index), result
        except (BrokenProcessPool, OSError):  # no process, or one that ended while it began
            continue
    if left:
        raise DataError(
            "worker processes end as soon as they are started; see whether this machine is out of "
            "memory or processes, or set data.workers lower"
        )


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _in_pool(
    tasks: dict[int, Task[KeyT]], work: Callable[..., ResultT], workers: int, limits: Limits
) -> Iterator[tuple[int, ResultT | str]]:
    from pebble import ProcessPool

    workers = min(workers, len(tasks), _worth(tasks.values()))
    pool = ProcessPool(
        max_workers=workers,
        max_tasks=_TASKS_A_WORKER,
        initializer=_begin,
        initargs=(os.getpid(), limits.memory(workers)),
        context=get_context("spawn"),  # a fork would copy the locks of torch's threads
    )
    try:
        waiting = iter(list(tasks.items()))
        running: dict[Future[ResultT], int] = {}
        while True:
            while len(running) < workers * _QUEUED_A_WORKER and (each := next(waiting, None)):
                index, task = each
                timeout_sec = limits.seconds(task.size_bytes)
                running[pool.schedule(work, task.arguments, timeout=timeout_sec)] = index
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = _outcome(future)
                yield running.pop(future), outcome
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _worth(tasks: Collection[Task[KeyT]]) -> int:
    """Return how many workers have enough to do."""
    size_bytes = sum(each.size_bytes for each in tasks)
    return 1 + max(len(tasks) // _FILES_WORTH_A_WORKER, size_bytes // _BYTES_WORTH_A_WORKER)


def _outcome(future: Future[ResultT]) -> ResultT | str:
    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return TOO_SLOW
    except ProcessExpired:
        return CRASHED
    except (FeatFedError, BrokenProcessPool):
        raise
    except MemoryError:
        return NO_MEMORY
    except Exception:  # of a library, through a fault of ours: it may quote the file
        return UNEXPECTED


def _begin(parent_pid: int, memory_bytes: int) -> None:
    """Prepare a worker: it ends with its parent, has a limit, and is silent."""
    end_with_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the patient's pictures
    quiet = os.open(os.devnull, os.O_WRONLY)  # decoders write what they find in a file
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
