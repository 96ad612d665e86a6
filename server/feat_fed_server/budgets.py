"""How often somebody may do something: token buckets in bounded memory."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_BUCKETS = 4096


class Budgets:
    """A bucket for each name: ``burst`` at once, ``per_sec`` in the long run.

    Of more than some thousand names the one that was not heard of for longest is forgotten.
    """

    def __init__(
        self, *, burst: float, per_sec: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_sec = per_sec
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, cost: float = 1.0) -> bool:
        """Take ``cost`` out of the bucket, if that much is in it."""
        now = self._clock()
        left, at = self._buckets.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_sec)
        enough = left >= cost
        self._buckets[name] = (left - cost if enough else left, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return enough


def neighbourhood(host: str) -> str:
    """Return whom an address stands for: itself, or the /64 of IPv6 that one line has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
