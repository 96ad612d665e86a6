"""Waiting for other processes, with deadlines that end what hangs and measure nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil

# Deadlines are written for a quiet machine. On two slow cores, beside two other studies, the same
# work has taken six times as long.
PATIENCE = 8


def wait_until(
    condition: Callable[[], object],
    timeout_sec: float = 60,
    told: Callable[[], str] = lambda: "it did not happen in time",
    *,
    poll_sec: float = 0.1,
) -> None:
    """Poll until the condition holds; AssertionError with what is told where it never does."""
    deadline = time.monotonic() + PATIENCE * timeout_sec
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(poll_sec)


def nobody_left(processes: Sequence[psutil.Process], timeout_sec: float = 20) -> None:
    """Assert that all of these processes are gone, with their ports."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE * timeout_sec)
    assert not alive, [each.cmdline() for each in alive]
