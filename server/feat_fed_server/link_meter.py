"""Counts what goes over the wire with each site: bytes, and the seconds that they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feat_fed.report.links import Link, Links

Leg = Literal["down", "up"]


@dataclass
class _Count:
    bytes: int = 0
    sec: float = 0.0
    active: int = 0
    since: float = 0.0


class LinkMeter:
    """What went over the wire since the run began.

    Parameters
    ----------
    path
        The run's file of links; the counts go on from what is in it.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._counts: dict[tuple[str, Leg], _Count] = {}
        self._written = Links.read(path)
        for site, link in self._written.sites.items():
            self._counts[site, "down"] = _Count(link.down_bytes, link.down_sec)
            self._counts[site, "up"] = _Count(link.up_bytes, link.up_sec)

    def begin(self, site: str, leg: Leg) -> Transfer:
        """Note that a part sets out."""
        count = self._counts.setdefault((site, leg), _Count())
        if count.active == 0:
            count.since = self._clock()
        count.active += 1
        return Transfer(count, self._clock)

    def links(self) -> Links:
        """Return the counts; a part that is on its way counts as far as it has come."""
        now = self._clock()
        sec = {key: it.sec + (now - it.since if it.active else 0) for key, it in self._items()}
        size = {key: it.bytes for key, it in self._items()}
        return Links(
            sites={
                site: Link(
                    down_bytes=size.get((site, "down"), 0),
                    down_sec=sec.get((site, "down"), 0.0),
                    up_bytes=size.get((site, "up"), 0),
                    up_sec=sec.get((site, "up"), 0.0),
                )
                for site in sorted({site for site, _ in self._counts})
            }
        )

    def write(self) -> None:
        """Write the counts, if they have changed since."""
        links = self.links()
        if links != self._written:
            links.write(self._path)
            self._written = links

    def _items(self) -> list[tuple[tuple[str, Leg], _Count]]:
        return list(self._counts.items())


class Transfer:
    """One part on its way."""

    def __init__(self, count: _Count, clock: Callable[[], float]) -> None:
        self._count = count
        self._clock = clock
        self._is_over = False

    def add(self, num_bytes: int) -> None:
        """Note that so much has come or gone."""
        self._count.bytes += num_bytes

    def end(self) -> None:
        """Note that it is there; a second time changes nothing."""
        if self._is_over:
            return
        self._is_over = True
        self._count.active -= 1
        if self._count.active == 0:
            self._count.sec += self._clock() - self._count.since
