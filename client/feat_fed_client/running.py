"""What is at work with a store, by the locks that end with their process."""

from __future__ import annotations

import fcntl
from pathlib import Path

from feat_fed_client import CLIENT_LOCK


def client_is_running(store: Path) -> bool:
    """Whether a ``feat-fed client`` works with the store."""
    return is_held(store / CLIENT_LOCK)


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
