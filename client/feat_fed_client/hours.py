"""The hours of a site: parts of the day, by its own machine's clock."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from feat_fed.config import HoursConfig

_DAYS_AHEAD = 2


@dataclass(frozen=True)
class OpenHours:
    """Parts of the day in which training may run; none at all means always.

    The wall clock decides: in the night in which it is put back, an hour that comes twice
    counts twice.
    """

    windows: tuple[HoursConfig, ...]

    def contain(self, now: dt.datetime) -> bool:
        """Tell whether training may run at a local time; a window's end is outside of it."""
        time = now.time()
        return not self.windows or any(_within(each, time) for each in self.windows)

    def change_at(self, now: dt.datetime) -> dt.datetime | None:
        """Return when they next close, or open if they are closed; None if they never do.

        ``now`` is a local time with its offset, and so is what is returned. An hour that a
        change of the clocks leaves out or repeats may shift it by that hour.
        """
        times = {time for each in self.windows for time in (each.begin, each.end)}
        days = [now.date() + dt.timedelta(days) for days in range(_DAYS_AHEAD)]
        # From wall time, since the offset may be another one by then: a time that the clocks
        # repeat is two, one that they leave out lies an hour to either side.
        points = sorted(
            dt.datetime.combine(day, time.replace(fold=fold)).astimezone()
            for day in days
            for time in times
            for fold in (0, 1)
        )
        is_open = self.contain(now)
        return next((each for each in points if each > now and self.contain(each) != is_open), None)

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self.windows) or "always"


def local_now() -> dt.datetime:
    """Return the time by this machine's clock, with its offset."""
    return dt.datetime.now().astimezone()


def clock(time: dt.datetime, now: dt.datetime) -> str:
    """Return a local time as a person says it: with the day where it is not today."""
    day = "" if time.date() == now.date() else f"{time:%Y-%m-%d} "
    return f"{day}{time:%H:%M}"


def _within(window: HoursConfig, time: dt.time) -> bool:
    if window.begin < window.end:
        return window.begin <= time < window.end
    return time >= window.begin or time < window.end
