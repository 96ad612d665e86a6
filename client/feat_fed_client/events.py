"""Curves of a site's own training for TensorBoard; they stay in its store.

A folder a study, ``store/tensorboard/STUDY_ID``, and a file a round in it. TensorBoard shows
the folder as one curve by the study's global step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from feat_fed.scalar_events import ScalarEvents

if TYPE_CHECKING:
    from feat_fed.train import StepProgress

_FOLDER = "tensorboard"


class RoundEvents:
    """One round's file."""

    def __init__(self, events: ScalarEvents) -> None:
        self._events = events

    def step(self, progress: StepProgress, *, step: int) -> None:
        """Write what the study's step ``step``, counted from 0, came to."""
        loss = {} if progress.loss is None else {"train/loss": progress.loss}
        values = {
            **loss,
            "train/gradient_norm": progress.gradient_norm,
            "train/learning_rate": progress.learning_rate,
            "speed/clips_per_sec": progress.clips_per_sec,
            "memory/peak_gb": progress.memory_bytes / 1e9,
        }
        self._events.write(values, step=step)

    def heldout(self, loss: float | None, *, step: int) -> None:
        """Write the held-out loss of the weights that ``step`` steps of the study gave."""
        if loss is not None:
            self._events.write({"heldout/loss": loss}, step=step)


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
    events = ScalarEvents(events_folder(store) / study_id, first_step=first_step)
    try:
        yield RoundEvents(events)
    finally:
        events.close()
