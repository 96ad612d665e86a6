"""Which feat-fed is at work with a store, by the locks that end with their process."""

from __future__ import annotations

import fcntl
from pathlib import Path

from feat_fed.data.inventory.manifest import LOCK


def client_is_running(store: Path) -> bool:
    """Whether a ``feat-fed client`` holds the store."""
    return _is_held(store / "flower" / "client.lock")


def clips_are_in_use(store: Path) -> bool:
    """Whether a scan or an encoding goes on."""
    return _is_held(store / LOCK)


def _is_held(path: Path) -> bool:
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has held it yet
        return False
    return False
