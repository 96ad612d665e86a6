"""Curves in a file that TensorBoard shows, written by who makes them; none is worth a failure.

tensorboardX's own writer keeps a queue in shared memory, which a killed process leaves, and waits
for ever once its thread has met a full disk: only its form of a record is used here.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import RecordWriter

log = logging.getLogger(__name__)

_FLUSH_SEC = 20.0


class ScalarEvents:
    """One file of a folder whose files TensorBoard shows as one curve.

    Where it cannot be written, or tensorboardX is missing, that is said once and nothing is
    written.

    Parameters
    ----------
    folder
        Made if need be; one process at a time writes it.
    first_step
        TensorBoard drops what earlier files hold from here on; None: it keeps all.
    flush_sec
        Longest that a number waits in memory while others come.
    """

    def __init__(
        self, folder: Path, *, first_step: int | None = None, flush_sec: float = _FLUSH_SEC
    ) -> None:
        self._flush_sec = flush_sec
        self._flushed_at = time.monotonic()
        self._writer = _open(folder, first_step)

    def write(self, values: Mapping[str, float | None], *, step: int) -> None:
        """Write what the scalars are at a step; those that are not finite, or None, are not."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        try:
            self._writer.write(event.SerializeToString())
            if time.monotonic() - self._flushed_at >= self._flush_sec:
                self._writer.flush()
                self._flushed_at = time.monotonic()
        except OSError as error:
            log.warning("no more events for TensorBoard from this process: %s", error)
            self.close()
            self._writer = None

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            _close(self._writer)


def _open(folder: Path, first_step: int | None) -> RecordWriter | None:
    # TensorBoard reads the files of a folder in the order of their names.
    name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{os.getpid()}"
    with ExitStack() as closing:
        try:
            from tensorboardX import RecordWriter

            folder.mkdir(parents=True, exist_ok=True)
            writer = RecordWriter(str(folder / name))
            closing.callback(_close, writer)
            _begin(writer, first_step)
        except ModuleNotFoundError:
            log.info("no events for TensorBoard: tensorboardX is not installed")
            return None
        except Exception as error:  # what it is makes no difference to who goes on without curves
            log.warning("no events for TensorBoard: %s", error)
            return None
        closing.pop_all()
    return writer


def _begin(writer: RecordWriter, first_step: int | None) -> None:
    """Write what a file begins with."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    now = time.time()
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    if first_step is not None:
        began = SessionLog(status=SessionLog.START)
        event = Event(wall_time=now, step=first_step, session_log=began)
        writer.write(event.SerializeToString())


def _close(writer: RecordWriter) -> None:
    with suppress(OSError):
        writer.close()
