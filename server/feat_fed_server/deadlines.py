"""How long a site is waited for, by what its last rounds took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from feat_fed.config import SitesConfig

KEPT = 9
"""Last rounds of a site that count."""
_FIRST = 3
"""Rounds of a site without which nothing is learned."""
_MARGIN = 1.5


@dataclass(frozen=True)
class PastRound:
    """What a site's part in a round took."""

    answer_sec: float
    """From asking to the answer: both transfers, whatever waits, and training."""
    train_sec: float


def deadline_sec(
    past: Sequence[PastRound], misses: int, *, sites: SitesConfig, transfer_sec: float = 0.0
) -> float:
    """Return how long a site is waited for.

    The median of its last rounds plus three robust standard deviations, no less than the last one
    took and no less than training and the transfer by its link as it is now, times a margin. It
    doubles with each round that the site has missed, so that one that has become slow gets the
    time to be heard again. While a deadline shortens a site's rounds, each is 1.35 times
    the one before (a site trains for 0.9 of it), until it does no more.

    Parameters
    ----------
    past
        The site's last rounds, the last one last.
    misses
        Rounds in a row since in which the site's time was up before it answered.
    transfer_sec
        A round's weights, both ways, by the site's link; 0: not known.
    """
    if sites.deadline == "fixed" or len(past) < _FIRST:
        return sites.round_sec
    last = past[-KEPT:]
    answers = [each.answer_sec for each in last]
    middle = median(answers)
    spread = 1.4826 * median(abs(each - middle) for each in answers)
    by_link = median(each.train_sec for each in last) + transfer_sec
    expected = max(middle + 3 * spread, answers[-1], by_link)
    learned = _MARGIN * expected * 2.0 ** min(misses, 32)
    return min(sites.round_sec, max(sites.shortest_sec, learned))
