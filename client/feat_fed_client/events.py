"""Curves of a site's own training for TensorBoard; they stay in its store.

A folder a study, ``store/tensorboard/STUDY_ID``, and a file a round in it. TensorBoard shows
the folder as one curve by the study's global step. The events are written by the thread that
trains: tensorboardX's own writer keeps a queue in shared memory, which a killed process leaves,
and waits for ever once its thread has met a full disk.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import RecordWriter

    from feat_fed.train import StepProgress

log = logging.getLogger(__name__)

_FOLDER = "tensorboard"
_FLUSH_SEC = 20.0


class RoundEvents:
    """One round's file; without a writer nothing is written."""

    def __init__(self, writer: RecordWriter | None) -> None:
        self._writer = writer
        self._flushed_at = time.monotonic()

    def step(self, progress: StepProgress, *, step: int) -> None:
        """Write what the study's step ``step``, counted from 0, came to."""
        values = {
            "train/loss": progress.loss,
            "train/gradient_norm": progress.gradient_norm,
            "train/learning_rate": progress.learning_rate,
            "speed/clips_per_sec": progress.clips_per_sec,
            "memory/peak_gb": progress.memory_bytes / 1e9,
        }
        self._write(values, step=step)

    def heldout(self, loss: float | None, *, step: int) -> None:
        """Write the held-out loss of the weights that ``step`` steps of the study gave."""
        if loss is not None:
            self._write({"heldout/loss": loss}, step=step)

    def _write(self, values: Mapping[str, float], *, step: int) -> None:
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if math.isfinite(value)
        ]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        try:
            self._writer.write(event.SerializeToString())
            if time.monotonic() - self._flushed_at > _FLUSH_SEC:
                self._writer.flush()
                self._flushed_at = time.monotonic()
        except OSError as error:
            log.warning("no more events for TensorBoard in this round: %s", error)
            self._writer = None

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


def events_folder(store: Path) -> Path:
    """Return the folder to give to ``tensorboard --logdir``."""
    return store / _FOLDER


@contextmanager
def round_events(store: Path, *, study_id: str, first_step: int) -> Iterator[RoundEvents]:
    """Lend a round's events; training goes on without them where they cannot be written.

    Parameters
    ----------
    first_step
        Of the study, that the round goes on from. TensorBoard drops what an earlier attempt at
        the round has left from here on.
    """
    events = RoundEvents(_open(events_folder(store) / study_id, first_step))
    try:
        yield events
    finally:
        events.close()


def _open(folder: Path, first_step: int) -> RecordWriter | None:
    try:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
    except ModuleNotFoundError:
        log.info("no events for TensorBoard: tensorboardX is not installed")
        return None
    # TensorBoard reads the files of a folder in the order of their names.
    name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writer = RecordWriter(str(folder / name))
        writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        began = SessionLog(status=SessionLog.START)
        again = Event(wall_time=time.time(), step=first_step, session_log=began)
        writer.write(again.SerializeToString())
    except OSError as error:
        log.warning("no events for TensorBoard: %s", error)
        return None
    return writer
