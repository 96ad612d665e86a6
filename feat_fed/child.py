"""Start a command that ends when its parent does: ``python -m feat_fed.child PID CMD...``.

A supervisor that is killed with SIGKILL cannot stop its children. On Linux the kernel
does it (``prctl(PR_SET_PDEATHSIG)``, which survives ``exec``); elsewhere the command
simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent ends.

    Parameters
    ----------
    parent_pid
        Whom the caller believes to be its parent; if that one is gone already, exit.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
