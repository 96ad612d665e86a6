"""How long those who train may be silent before they count as hung."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent, and how often it is started again."""

    working_sec: float = 3600.0
    """Outside of the steps, as while a long clip is encoded or held-out clips are scored."""
    step_sec: float = 600.0
    """Between steps, or as long as this many of the slowest step so far:"""
    steps: float = 20.0
    deaths: int = 3
    """In a row, without a new checkpoint in between, after which it is given up."""
    pause_sec: float = 2.0
    """Before a process that holds the whole round is started again, times the deaths in a row."""


class Pulse:
    """When a sign of life was last heard, and how long the next one may take."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._heard_at = time.monotonic()
        self._stepped_at: float | None = None
        self._slowest_sec = 0.0

    def alive(self) -> None:
        """Note a sign of life, in any phase."""
        self._heard_at = time.monotonic()

    def stepped(self) -> None:
        """Note a step, from which on the time between steps counts."""
        self.alive()
        if self._stepped_at is not None:
            self._slowest_sec = max(self._slowest_sec, self._heard_at - self._stepped_at)
        self._stepped_at = self._heard_at

    def working(self) -> None:
        """Note a sign of life from a phase without steps."""
        self.alive()
        self._stepped_at = None

    @property
    def silent_sec(self) -> float:
        """Since the last sign."""
        return time.monotonic() - self._heard_at

    @property
    def allowed_sec(self) -> float:
        """Of silence."""
        if self._stepped_at is None:
            return self._patience.working_sec
        return max(self._patience.step_sec, self._patience.steps * self._slowest_sec)
