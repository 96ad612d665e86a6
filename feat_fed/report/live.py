"""Where a study and a site stand at this moment, for whoever watches on the same machine.

The process that works rewrites a small file; the one that shows progress reads it. A
site's file stays at the site.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel

LiveT = TypeVar("LiveT", bound="Live")


class Live(StrictModel):
    """A file that is replaced whole."""

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_bytes_atomically(path, self.model_dump_json().encode())

    @classmethod
    def read(cls: type[LiveT], path: Path) -> LiveT | None:
        """Return what was last written, or None when there is nothing (yet)."""
        with contextlib.suppress(OSError, ValidationError):
            return cls.model_validate_json(path.read_bytes())
        return None


class StudyLive(Live):
    """The server's view."""

    phase: Literal["waiting", "training", "aggregating", "scoring", "done"]
    round: int
    rounds: int
    connected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    replied: tuple[str, ...] = ()
    deadline: float | None = None
    """Unix time by which the round or the waiting ends."""


class SiteLive(Live):
    """The site's view."""

    phase: Literal["idle", "preparing", "training", "scoring"]
    round: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    clips_per_sec: float | None = None
    clips: int = 0
    """Encoded so far, of ``of_clips``, while the phase is ``preparing``."""
    of_clips: int = 0
