"""One fault after the other on the same study, and what each has cost."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from faults.cases import Fault
from faults.stage import SITES, MissedError, Stage

_TRIES = 5
PATIENCE_SEC = 600.0


@dataclass(frozen=True)
class Outcome:
    """What a fault has cost."""

    rounds_lost: int
    """Completed ones for which sites were asked again."""
    updates_lost: int
    """Finished ones that were trained again."""
    seconds: float
    """Until the round that was hit was complete, with all that it still had to train."""


def suffer(stage: Stage, fault: Fault) -> Outcome:
    """Break something in one of the next rounds; wait until that round is complete.

    Raises
    ------
    TimeoutError
        If it never is.
    MissedError
        If the phase was over each time before anything could be broken.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(MissedError, LookupError):
            number = _reach(stage, fault)
            return _hit(stage, fault, number)
    raise MissedError(f"{fault.key}: the moment never came")


def _reach(stage: Stage, fault: Fault) -> int:
    """Wait for the fault's phase; return the round."""
    if fault.phase == "waiting":
        late = SITES[1]
        stage.stop("server", late)
        stage.start("server")
        stage.wait(lambda: (live := stage.live) is not None and live.phase == "waiting")
        stage.wait(lambda: (live := stage.live) is not None and SITES[0] in live.connected)
        return stage.rounds_done() + 1
    number = stage.rounds_done() + 2
    stage.wait(lambda: stage.rounds_done() >= number - 1)
    stage.wait_for_phase(fault.phase, number, fault.site)
    return number


def _hit(stage: Stage, fault: Fault, number: int) -> Outcome:
    lost_before, done_before = stage.updates.lost, stage.rounds_done()
    asked_before = len(stage.asked_rounds())
    since = fault.act(stage, number, fault.site)
    if fault.phase == "waiting":
        stage.start(SITES[1])
    stage.wait(lambda: stage.rounds_done() >= number, PATIENCE_SEC)
    seconds = time.time() - since
    asked = stage.asked_rounds()[asked_before:]
    lost = {each for each in asked if each <= done_before}
    return Outcome(len(lost), stage.updates.lost - lost_before, seconds)
