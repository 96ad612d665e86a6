"""What a site's file and its pause allow at this moment; they win over the study.

Asked before a round, between clips that are encoded and between steps. Minutes of training are
the round's own affair (``local_minutes``), bytes that of :mod:`feat_fed_client.traffic`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from feat_fed.config import LimitsConfig, SiteConfig, TrainingConfig
from feat_fed.errors import FeatFedError
from feat_fed.protocol import DeclineCode, EndedBy
from feat_fed_client.hours import OpenHours, clock, local_now
from feat_fed_client.pause import pause_of

TRAINING_SHARE = 0.9
"""Of the time until the server waits no more; the rest is for sending the update."""


class DeclinedError(FeatFedError):
    """The site's own limits forbid the round; nothing is wrong.

    Parameters
    ----------
    limit
        Which of them: all that the server learns. The message is for the site's own log.
    """

    code: ClassVar[str] = "declined"

    def __init__(self, limit: DeclineCode, message: str) -> None:
        super().__init__(message)
        self.limit: DeclineCode = limit


@dataclass(frozen=True)
class SiteLimits:
    """A site's hours, pause and minutes.

    Parameters
    ----------
    now
        Returns the local time, with its offset.
    """

    config: LimitsConfig
    store: Path
    now: Callable[[], dt.datetime] = local_now

    @classmethod
    def of(cls, site: SiteConfig) -> SiteLimits:
        """Return a site's."""
        return cls(site.limits, site.store)

    @property
    def hours(self) -> OpenHours:
        """When training may run."""
        return OpenHours(self.config.hours)

    def closed(self) -> DeclinedError | None:
        """Return why no training may run now, or None."""
        now = self.now()
        if pause := pause_of(self.store, now):
            end = f"until {clock(pause.until, now)}" if pause.until else "until it is resumed"
            return DeclinedError("paused", f"the site is paused {end}")
        if not self.hours.contain(now):
            opens = self.hours.change_at(now)
            begin = f", which begin at {clock(opens, now)}" if opens else ""
            return DeclinedError("hours", f"outside of the site's hours ({self.hours}){begin}")
        return None

    def require_open(self) -> None:
        """Raise :class:`DeclinedError` where no training may run now."""
        if closed := self.closed():
            raise closed

    def must_end(self) -> EndedBy | None:
        """Return what ends a round that is under way, or None."""
        closed = self.closed()
        return None if closed is None else "hours" if closed.limit == "hours" else "pause"

    def sec_to_close(self) -> float | None:
        """Return the seconds until the hours end; None if they do not."""
        now = self.now()
        closes = self.hours.change_at(now)
        return None if closes is None else (closes - now).total_seconds()

    def shorten(self, training: TrainingConfig) -> TrainingConfig:
        """Return the study's training within the site's minutes."""
        minutes = [each for each in (training.local_minutes, self.config.minutes_per_round) if each]
        return training.model_copy(update={"local_minutes": min(minutes, default=None)})
