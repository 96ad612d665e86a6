"""Ctrl-C and SIGTERM that reach Python where it drops them.

An exception in a callback of a fork is told to ``sys.unraisablehook`` and forgotten: a signal that
comes in that moment would stop nothing. Ray starts its processes by forks of that kind.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

_AGAIN_SEC = 0.2


def deliver_lost(interrupts: dict[type[BaseException], signal.Signals]) -> None:
    """Send this process a signal again whose exception was dropped.

    Parameters
    ----------
    interrupts
        What the handler of each signal raises.
    """
    pid, before = os.getpid(), sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        number = interrupts.get(lost.exc_type)
        if number is None or os.getpid() != pid:  # a fork's child has its own end
            before(lost)
            return
        again = threading.Timer(_AGAIN_SEC, os.kill, (pid, number))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
