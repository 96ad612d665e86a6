"""How often Flower's SuperNode looks whether there is something to do.

Flower 1.41 sleeps 3 s whenever the server had no message, and half a second whenever the executor
had no answer yet: most of what a round of a small model takes. Here a sleep is a part of what was
waited so far, and Flower's own at the most: short rounds stay short, and who waits for hours asks
no more often than Flower would. Parts of a message that are not there yet are asked for after
1, 2, 4, 8 and then 10 s, by the SuperNode and again by its executor, and a large message has its
last parts long before that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.supercore.constant import FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS
from flwr.supercore.inflatable.inflatable_utils import pull_objects

_SHARE = 1 / 20
"""Of the time waited so far, that the next sleep takes."""
_SHORTEST = 1 / 15
"""Of Flower's sleep."""

_PULL_SEC = 0.1
_SLOWEST_PULL_SEC = 1.0


def pull_promptly(
    object_ids: list[str],
    pull_object_fn: Callable[[str], bytes],
    *,
    max_concurrent_pulls: int = FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS,
    **waits: float | None,
) -> dict[str, bytes]:
    """Call Flower's function with shorter waits, and its own bound on their sum (two hours)."""
    return pull_objects(
        object_ids,
        pull_object_fn,
        max_concurrent_pulls=max_concurrent_pulls,
        max_tries_per_object=None,
        initial_backoff=_PULL_SEC,
        backoff_cap=_SLOWEST_PULL_SEC,
    )


class Polls:
    """Stands for the module ``time`` in Flower's main loop, which only sleeps by it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._sec = 0.0
        self._began_at = 0.0
        self._woke_at = 0.0

    def sleep(self, sec: float) -> None:
        """Sleep ``sec`` seconds at most; others than last time are another wait's."""
        now = self._clock()
        if sec != self._sec or now > self._woke_at + sec:
            self._sec, self._began_at = sec, now
        self._sleep(min(sec, max(sec * _SHORTEST, (now - self._began_at) * _SHARE)))
        self._woke_at = self._clock()
