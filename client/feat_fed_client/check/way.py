"""The way to the server, measured: is the key known, what time is it there, how much goes through.

Nothing is raised: what fails is part of what is found.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import httpx

from feat_fed.config import ServerLinkConfig
from feat_fed.errors import ConfigError, RefusedError
from feat_fed.protocol import ProbeAnswer
from feat_fed_client.keys import check_site_key
from feat_fed_client.probe import Answered, Prober
from feat_fed_client.reach import Greeting, greet

DEADLINE_SEC = 240.0
"""For all requests together: the server gives each of its probes 30 s."""


@dataclass(frozen=True)
class Way:
    """What was found; what comes after a failure is None."""

    greeting: Greeting | None = None
    failure: OSError | RefusedError | ConfigError | httpx.TransportError | None = None
    """Why there is no more."""
    first: Answered | None = None
    up_bytes_per_sec: float | None = None
    down_bytes_per_sec: float | None = None

    @property
    def answer(self) -> ProbeAnswer | None:
        """What the door says of this site."""
        return self.first.answer if self.first else None


def measure_way(link: ServerLinkConfig, *, quick: bool) -> Way:
    """Reach the server and, unless ``quick``, send and fetch some megabytes.

    Given up after :data:`DEADLINE_SEC`: the time-outs of sockets count from the last byte, and a
    server that sends one now and then would never meet them.
    """
    found: Future[Way] = Future()

    def work() -> None:
        try:
            found.set_result(_measured(link, quick=quick))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=work, name="way", daemon=True).start()
    try:
        return found.result(DEADLINE_SEC)
    except TimeoutError:
        late = RefusedError(
            f"the server has given no whole answer within {DEADLINE_SEC:.0f} s; look at the line, "
            "and ask the coordinator how the server does"
        )
        return Way(failure=late)


def _measured(link: ServerLinkConfig, *, quick: bool) -> Way:
    greeting = None
    try:
        greeting = greet(link)
        check_site_key(link.private_key)
        return _probe(link, greeting, quick=quick)
    except (OSError, RefusedError, ConfigError, httpx.TransportError) as error:
        return Way(greeting=greeting, failure=error)


def _probe(link: ServerLinkConfig, greeting: Greeting, *, quick: bool) -> Way:
    with Prober(link) as prober:
        first = prober.ask()
        if first.answer is None or quick:
            return Way(greeting=greeting, first=first)
        idle_sec = prober.ask().seconds  # the first one had a handshake in it
        return Way(
            greeting=greeting,
            first=first,
            up_bytes_per_sec=prober.up_bytes_per_sec(idle_sec=idle_sec),
            down_bytes_per_sec=prober.down_bytes_per_sec(),
        )
