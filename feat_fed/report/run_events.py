"""Curves of a run for TensorBoard, in ``RUN/tensorboard/``: the rounds', and of their evaluations.

Each is a folder of its own, since TensorBoard asks for one writer a folder and the evaluations are
another process's.
"""

from __future__ import annotations

import logging
from pathlib import Path

from feat_fed.measured import Evaluation
from feat_fed.report.records import RoundRecord
from feat_fed.report.run_store import RunStore
from feat_fed.report.scalars import evaluation_scalars, round_scalars
from feat_fed.scalar_events import ScalarEvents

log = logging.getLogger(__name__)

FOLDER = "tensorboard"
"""Of a run, to give to ``tensorboard --logdir``."""


class RunEvents:
    """The rounds of one life of the round loop.

    Parameters
    ----------
    first_round
        That is about to begin: what an earlier life wrote of it and of later ones is dropped.
    """

    def __init__(self, store: RunStore, *, first_round: int) -> None:
        self._study = store.study
        self._events = ScalarEvents(
            store.root / FOLDER / "rounds", first_step=first_round, flush_sec=0.0
        )

    def round(self, record: RoundRecord) -> None:
        """Write a round; whatever keeps it from that costs the curve and not the round."""
        try:
            self._events.write(round_scalars(self._study, record), step=record.round)
        except Exception:
            log.exception("round %d has no events for TensorBoard", record.round)

    def close(self) -> None:
        """Write what is left."""
        self._events.close()


def write_evaluation_event(root: Path, one: Evaluation) -> None:
    """Write a round's evaluation into the run below ``root``, a file of its own."""
    if one.round is None:
        return
    events = ScalarEvents(root / FOLDER / "evaluation")
    events.write(evaluation_scalars(one), step=one.round)
    events.close()
