"""How the evaluator keeps out of the way of what runs beside it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FIRST_TO_GO = 500
"""Of -1000 to 1000: whom Linux ends where memory is short (proc(5), oom_score_adj)."""


def step_back(niceness: int) -> None:
    """Give this process a low priority for its whole life; to be called before it has threads.

    Niceness tells processes of one session apart. Where Linux shares out the CPU among sessions
    first (sched(7), autogroup), the session's own niceness is what counts, so that is set too.

    Parameters
    ----------
    niceness
        0, as others, to 19; one that is lower than the present one changes nothing.
    """
    os.nice(max(0, niceness - os.nice(0)))
    for name, value in (("autogroup", niceness), ("oom_score_adj", _FIRST_TO_GO)):
        with contextlib.suppress(OSError):  # not on this system, or not allowed
            (Path("/proc/self") / name).write_text(str(value))
