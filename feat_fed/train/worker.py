"""One of the processes that train together: ``python -m feat_fed.train.worker``.

Started by :mod:`feat_fed.train.workers`, which it talks to over a pipe. It does what a process
that trains alone does, and the first of them asks on the pipe where that one asks its hooks.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import distributed

from feat_fed.errors import FeatFedError, StorageError
from feat_fed.protocol import EndedBy
from feat_fed.train.device import resolve_device
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
)
from feat_fed.train.jobs import MidRound, RoundHooks, StepProgress
from feat_fed.train.local import take_part
from feat_fed.train.peers import Peers

_log = logging.getLogger(__name__)

_SIGN_EVERY_SEC = 0.5
_PATIENCE = timedelta(days=1)
"""Of an exchange: whether the others make progress is for whom started all to say."""


class Line:
    """The worker's end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told_at = 0.0

    def tell(self, message: Message) -> None:
        """Send a message."""
        self._connection.send_bytes(message.model_dump_json().encode())
        self._told_at = time.monotonic()

    def alive(self) -> None:
        """Give a sign of life, if there was none lately."""
        if time.monotonic() - self._told_at > _SIGN_EVERY_SEC:
            self.tell(Alive())

    def hear(self) -> bytes:
        """Wait for an answer."""
        return self._connection.recv_bytes()


class _ToLine(logging.Handler):
    """Sends what the first worker logs to the log of whom started it."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.INFO)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        text = record.getMessage()
        self._line.tell(Said(level=record.levelno, logger=record.name, text=text))


def hooks_over(line: Line, exchange: Exchange, peers: Peers) -> RoundHooks:
    """Return hooks that reach, over the first worker, those of whom started all."""
    first = peers.rank == 0

    def fitted(micro_batch: int) -> None:
        line.tell(Fitted(micro_batch=micro_batch))

    def progress(step: StepProgress) -> None:
        if first:
            line.tell(Stepped.model_validate(asdict(step)))

    def must_end() -> EndedBy | None:
        if not first:
            return None  # only the first one's answer counts
        line.tell(AskEnd())
        return EndAnswer.model_validate_json(line.hear()).ended_by

    def keep(make: Callable[[], MidRound]) -> None:
        wanted = False
        if first:
            line.tell(AskKeep())
            wanted = KeepAnswer.model_validate_json(line.hear()).wanted
        if peers.of_first(wanted):
            state = make()  # all take part in putting it together
            if first:
                line.tell(_kept(exchange, state))

    return RoundHooks(
        alive=line.alive, fitted=fitted, progress=progress, must_end=must_end, keep=keep
    )


def _kept(exchange: Exchange, state: MidRound) -> Kept | KeepFailed:
    """Write a checkpoint; on a full disk all go on without it."""
    try:
        exchange.write_mid_round(state)
    except StorageError as error:
        return KeepFailed(text=str(error))
    return Kept()


def work(exchange: Exchange, line: Line, *, rank: int, size: int) -> None:
    """Take part in the round; the first worker leaves the result."""
    job, train, heldout = exchange.read_job()
    line.alive()
    device = resolve_device(job.compute, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=distributed.FileStore(str(exchange.rendezvous), size),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=_PATIENCE,
        )
    peers = Peers(rank, size, device)
    result = take_part(
        job,
        train=train.open(),
        heldout=heldout.open() if heldout else None,
        hooks=hooks_over(line, exchange, peers),
        peers=peers,
    )
    if rank == 0:
        exchange.write_result(result)


def main() -> None:
    """Work, tell how it went, and wait to be ended."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    for name in ("rank", "size", "pipe"):
        options.add_argument(name, type=int)
    given = options.parse_args()
    line = Line(Connection(given.pipe))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # Deprecations inside torch.distributed, which DeepSpeed meets.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if given.rank == 0:
        logging.getLogger("feat_fed").addHandler(_ToLine(line))
    line.tell(Alive())
    try:
        work(Exchange(given.folder), line, rank=given.rank, size=given.size)
    except FeatFedError as error:
        _log.error("%s", error)
        line.tell(Failed(code=error.code, text=str(error)))
    except Exception as error:
        _log.exception("an unexpected error")
        line.tell(Failed(code=None, text=f"{type(error).__name__}: {error}"))
    else:
        line.tell(Done())
    logging.shutdown()
    # One that left by itself could be missed by another: all leave when nobody listens.
    with suppress(EOFError, ConnectionError):
        line.hear()
    os._exit(0)


if __name__ == "__main__":
    main()
