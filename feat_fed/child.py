"""Start a command that ends when its parent does: ``python -m feat_fed.child PID CMD...``.

A supervisor that is killed with SIGKILL cannot stop its children. On Linux the kernel
does it (``prctl(PR_SET_PDEATHSIG)``, which survives ``exec``); elsewhere the command
simply runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

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


def be_child(parent_pid: int, work: Callable[[], object]) -> NoReturn:
    """Be a fork of this parent: work, and exit with 0, or with 1 and a traceback in the log.

    Nothing is done of what the parent would do at its own end.
    """
    status = 1
    try:
        end_with_parent(parent_pid)
        work()
        status = 0
    except BaseException:
        log.exception("the work failed")
    finally:
        logging.shutdown()
        os._exit(status)


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
