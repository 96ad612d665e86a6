"""Where clips are encoded: in processes that load the codec once, or right here."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from feat_fed.child import end_with_parent
from feat_fed.errors import DataError
from feat_fed.threads import cpu_threads

JobT = TypeVar("JobT")
MadeT = TypeVar("MadeT")

Encode = Callable[[JobT], "Future[MadeT]"]

_WORTH_SEC = 10.0
"""Of work that is left, from which on processes are started: each imports torch for 2 to 3 s."""


@contextmanager
def encoders(
    work: Callable[[JobT], MadeT], workers: int, *, jobs: int
) -> Iterator[Encode[JobT, MadeT]]:
    """Lend a function that has a job done.

    Jobs are done by the caller's process until, by those so far, the rest would take long. All
    have the same number of threads wherever they are done, so that it changes no bit.

    Parameters
    ----------
    work
        Copied to each process once.
    workers
        Processes; with less than two, jobs are done by the caller's.
    jobs
        How many there will be.

    Raises
    ------
    DataError
        When a process is killed.
    """
    workers = min(workers, jobs)
    if workers < 2:
        yield lambda job: _done_here(work, job)
        return
    lent = _Encoders(work, workers, jobs)
    try:
        yield lent.encode
    except BrokenProcessPool as error:
        raise DataError(
            "a process that encoded clips was killed, perhaps for want of memory; take fewer "
            "workers, and what is done stays done"
        ) from error
    finally:
        lent.shutdown()


class _Encoders(Generic[JobT, MadeT]):
    def __init__(self, work: Callable[[JobT], MadeT], workers: int, jobs: int) -> None:
        self._work, self._workers, self._left = work, workers, jobs
        self._threads = max(1, (os.cpu_count() or 1) // workers)
        self._done, self._spent_sec = 0, 0.0
        self._pool: ProcessPoolExecutor | None = None

    def encode(self, job: JobT) -> Future[MadeT]:
        if self._pool is None and self._is_long():
            self._pool = ProcessPoolExecutor(
                self._workers,
                # A fork would copy locks of threads.
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
                initargs=(os.getpid(), self._work, self._threads),
            )
        self._left -= 1
        if self._pool is not None:
            return self._pool.submit(_work, job)
        started_sec = time.perf_counter()
        with cpu_threads(self._threads):
            made = _done_here(self._work, job)
        self._done += 1
        self._spent_sec += time.perf_counter() - started_sec
        return made

    def _is_long(self) -> bool:
        return self._done > 0 and self._left * self._spent_sec / self._done > _WORTH_SEC

    def shutdown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _done_here(work: Callable[[JobT], MadeT], job: JobT) -> Future[MadeT]:
    future: Future[MadeT] = Future()
    future.set_result(work(job))
    return future


_work_here: Callable[[Any], Any]


def _start(parent_pid: int, work: Callable[[Any], Any], threads: int) -> None:
    global _work_here
    end_with_parent(parent_pid)
    torch.set_num_threads(threads)
    _work_here = work


def _work(job: Any) -> Any:  # noqa: ANN401 (what the pool was made for)
    return _work_here(job)
