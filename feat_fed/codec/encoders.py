"""Where clips are encoded: in processes that load the codec once, or right here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from feat_fed.child import end_with_parent
from feat_fed.errors import DataError

JobT = TypeVar("JobT")
MadeT = TypeVar("MadeT")

Encode = Callable[[JobT], "Future[MadeT]"]


@contextmanager
def encoders(work: Callable[[JobT], MadeT], workers: int) -> Iterator[Encode[JobT, MadeT]]:
    """Lend a function that has a job done.

    Parameters
    ----------
    work
        Copied to each process once.
    workers
        Processes; with less than two, jobs are done by the caller's.

    Raises
    ------
    DataError
        When a process is killed.
    """
    if workers < 2:
        yield lambda job: _done_here(work, job)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # a fork would copy locks of threads
        initializer=_start,
        initargs=(os.getpid(), work, max(1, (os.cpu_count() or 1) // workers)),
    )
    try:
        yield lambda job: pool.submit(_work, job)
    except BrokenProcessPool as error:
        raise DataError(
            "a process that encoded clips was killed, perhaps for want of memory; take fewer "
            "workers, and what is done stays done"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


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
