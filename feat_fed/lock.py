"""Locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
from pathlib import Path


def is_held(lock_file: Path) -> bool:
    """Whether a process holds the lock; who wants it in this very instant must try again."""
    try:
        with lock_file.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has held it yet
        return False
    return False
