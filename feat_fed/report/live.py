"""Where a study and a site stand at this moment, for whoever watches on the same machine.

The process that works rewrites a small file; the one that shows progress reads it. A
site's file stays at the site.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel

LiveT = TypeVar("LiveT", bound="Live")

LIVE_FILE = "live.json"
"""In a run's folder and in a site's store."""


class Live(StrictModel):
    """A file that is replaced whole."""

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_bytes_atomically(path, self.model_dump_json().encode(), durable=False)

    @classmethod
    def read(cls: type[LiveT], path: Path) -> LiveT | None:
        """Return what was last written, or None when there is nothing (yet)."""
        with contextlib.suppress(OSError, ValidationError):
            return cls.model_validate_json(path.read_bytes())
        return None


class StudyLive(Live):
    """The server's view."""

    phase: Literal[
        "waiting",
        "agreeing",
        "training",
        "unmasking",
        "aggregating",
        "scoring",
        "comparing",
        "done",
    ]
    round: int
    rounds: int
    connected: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    replied: tuple[str, ...] = ()
    declined: dict[str, str] = Field(default_factory=dict)
    """Sites that will not take part for now, and why, while the server waits for them."""
    kept_out: dict[str, str] = Field(default_factory=dict)
    """Sites that are not asked, and why, while the study waits for the coordinator to change it."""
    deadline: float | None = None
    """Unix time by which the round or the waiting ends."""


class SiteLive(Live):
    """The site's view."""

    phase: Literal["idle", "preparing", "training", "scoring", "comparing", "waiting"]
    round: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    clips_per_sec: float | None = None
    memory_bytes: int | None = None
    """Most that the training process has taken: of the GPU's memory, or of the machine's."""
    sec_left: float | None = None
    """Until the round's last step, by its steps so far and the site's limits."""
    clips: int = 0
    """Encoded so far, of ``of_clips``, while the phase is ``preparing``."""
    of_clips: int = 0
    at: float = Field(default_factory=time.time)
    """Unix time of writing."""
