"""A lower priority for the CPU, so that a hospital's machine stays usable while it trains."""

from __future__ import annotations

import contextlib
import os
import sys

import psutil


def be_nice(niceness: int) -> None:
    """Let other processes go first: 0 changes nothing, 19 gives way to everything.

    Holds for this process's threads and for whatever it starts. A process that was started
    with a greater niceness keeps it.
    """
    # Linux keeps one a thread, and torch may have started some.
    linux = sys.platform == "linux"
    for thread in (each.id for each in psutil.Process().threads()) if linux else (0,):
        with contextlib.suppress(ProcessLookupError):  # a thread that has ended since
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
