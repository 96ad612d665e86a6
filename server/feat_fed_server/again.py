"""Whether sites are asked again for a round to which too few gave good replies, and when."""

from __future__ import annotations

import logging
import math
import time

from feat_fed.config import SitesConfig
from feat_fed.errors import FederationError
from feat_fed_server.asking import Asking
from feat_fed_server.tally import Tally

log = logging.getLogger(__name__)

ASK_AGAIN_SEC = 30.0
_LONGEST_SEC = 300.0
"""A site that was paused and goes on is not left waiting for longer."""
_ASK_AGAIN_TIMES = 20
"""Of a site that declined, within the study's ``sites.wait_sec`` where that is short."""


class Again:
    """Of one round: it goes on while a site that failed or declined may still come round."""

    def __init__(self, asking: Asking, sites: SitesConfig, number: int) -> None:
        self._asking = asking
        self._sites = sites
        self._number = number
        self._give_up_at = math.inf

    def wait(self, tally: Tally, found: str | None = None) -> None:
        """Return when sites are to be asked again: at once those that failed, a few times.

        One that declined for the time being is asked after a while, as long as the study waits
        for sites. ``found`` is that of :meth:`Tally.told`.

        Raises
        ------
        FederationError
            If no further reply can complete the round.
        """
        log.warning("round %d: %s", self._number, tally.told(found))
        if tally.declined:
            self._give_up_at = min(self._give_up_at, time.time() + self._sites.wait_sec)
        if tally.hopeless or (not tally.failed and time.time() >= self._give_up_at):
            raise FederationError(f"round {self._number}: {tally.told(found)}")
        if tally.declined and not tally.failed:
            self._wait_for_declined(tally)

    def _wait_for_declined(self, tally: Tally) -> None:
        until = self._give_up_at
        self._asking.tell("waiting", self._number, tally.good, until, tally.declined)
        pause_sec = min(_LONGEST_SEC, self._sites.wait_sec / _ASK_AGAIN_TIMES)
        pause_sec = max(ASK_AGAIN_SEC, pause_sec)
        time.sleep(max(0.0, min(pause_sec, until - time.time())))
