"""Whether the ServerApp lives, as whoever watches it on the same machine can tell.

It holds a lock, which ends with its process, and touches a file every now and then: one that was
killed is noticed at once, one that stands still after some seconds. Flower needs a minute for
either.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from feat_fed.report.run_store import RunStore, is_locked, lock_run

_LOCK = "rounds"
_LOCK_WAIT_SEC = 60.0
_BEAT_SEC = 1.0

_ORDERLY_SEC = 2.0
"""For what a ServerApp writes and says after it gave the lock back."""

STARTING_SEC = 300.0
SILENT_SEC = 20.0
"""Longer than any library holds the interpreter, shorter than anybody likes to wait."""


@contextlib.contextmanager
def living(store: RunStore) -> Iterator[None]:
    """Be the run's only ServerApp for the block, and show that it lives.

    Raises
    ------
    RunError
        If another one lives on: that of a server that was killed needs some seconds to notice.
    """
    ended = threading.Event()

    def beat() -> None:
        with contextlib.suppress(OSError):
            _pulse(store).touch()

    def keep_beating() -> None:
        while not ended.wait(_BEAT_SEC):
            beat()

    with lock_run(store.root, _LOCK, wait_sec=_LOCK_WAIT_SEC):
        beat()
        thread = threading.Thread(target=keep_beating, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class LifeWatch:
    """Watch one ServerApp from its start on, with a look a few times a second."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._started_at = time.monotonic()
        self.has_started = False
        self._free_since: float | None = None
        self._beat = _beat_of(store)
        self._beaten_at = self._started_at

    def look(self) -> str | None:
        """Return what is wrong with the ServerApp, ``"ended"`` if it is over, or None."""
        now = time.monotonic()
        if is_locked(self._store.root, _LOCK):
            return self._look_at_pulse(now)
        if _beat_of(self._store) != self._beat:  # it came and went between two looks
            self.has_started = True
        if not self.has_started:
            late = now - self._started_at > STARTING_SEC
            return f"has not started within {STARTING_SEC:.0f} s" if late else None
        self._free_since = self._free_since or now
        return "ended" if now - self._free_since > _ORDERLY_SEC else None

    def _look_at_pulse(self, now: float) -> str | None:
        beat = _beat_of(self._store)
        if beat != self._beat or not self.has_started:
            self._beat, self._beaten_at, self.has_started = beat, now, True
        silent_sec = now - self._beaten_at
        return f"stands still for {silent_sec:.0f} s" if silent_sec > SILENT_SEC else None


def _pulse(store: RunStore) -> Path:
    return store.flower / "serverapp.pulse"


def _beat_of(store: RunStore) -> int:
    with contextlib.suppress(OSError):
        return _pulse(store).stat().st_mtime_ns
    return 0
