"""Who has answered a round how, and whom it is worth asking again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from feat_fed.config import TrainingConfig
from feat_fed.errors import ProtocolError
from feat_fed.report.records import SiteRound
from feat_fed_server.replies import Reply

MAX_ATTEMPTS = 3
"""Times that a site is asked for a round to which it gives no good reply."""


class Tally:
    """The last reply of each site to a round's training; good ones stay while others are asked.

    Parameters
    ----------
    expected
        Names of the study's sites.
    needed
        Good replies without which the round is not complete.
    """

    def __init__(self, expected: Sequence[str], *, needed: int) -> None:
        self._expected = frozenset(expected)
        self._needed = needed
        self._replies: dict[str, Reply] = {}
        self._asked = Counter[str]()
        self._bytes_down = Counter[str]()

    def add(self, replies: Sequence[Reply]) -> None:
        """Take new replies in."""
        for reply in replies:
            before = self._replies.get(reply.site)
            if before is None or before.status != "ok" or reply.status == "ok":
                self._replies[reply.site] = reply
            self._asked[reply.site] += 1
            self._bytes_down[reply.site] += reply.bytes_down

    def add_absent(self, busy: Mapping[str, int]) -> None:
        """Note sites that were not asked, being at an earlier round."""
        for site, number in busy.items():
            reason = f"still at round {number}, so not asked"
            self._replies.setdefault(site, Reply(site, "missing", reason))

    def turn_away(self, site: str, error: ProtocolError) -> None:
        """Note that an update is not good after all."""
        self._replies[site] = self._replies[site].refused(error)

    def reopen(self) -> None:
        """Forget which sites gave good replies: all are asked again."""
        self._replies = {site: each for site, each in self._replies.items() if each.status != "ok"}

    @property
    def replies(self) -> list[Reply]:
        """Return them, sites by name."""
        return [self._replies[site] for site in sorted(self._replies)]

    @property
    def good(self) -> list[str]:
        """Sites whose updates can be aggregated."""
        return [each.site for each in self.replies if each.status == "ok"]

    @property
    def still_needed(self) -> int:
        """Good replies that are missing."""
        return max(0, self._needed - len(self.good))

    @property
    def failed(self) -> frozenset[str]:
        """Sites that gave no good reply and are worth asking again at once."""
        return frozenset(
            each.site
            for each in self.replies
            if each.status not in ("ok", "declined") and self._asked[each.site] < MAX_ATTEMPTS
        )

    @property
    def tried(self) -> frozenset[str]:
        """Sites that gave no good reply so far."""
        return frozenset(each.site for each in self.replies if each.status != "ok")

    @property
    def declined(self) -> dict[str, str]:
        """Sites that are worth asking again after a while, and why they declined."""
        return {each.site: each.reason for each in self.replies if each.may_change_soon}

    @property
    def settled(self) -> frozenset[str]:
        """Sites that are not asked again."""
        return frozenset(self._replies) - self.failed - self.declined.keys()

    @property
    def hopeless(self) -> bool:
        """Whether no further reply can complete the round."""
        known = self._expected | self._replies.keys()  # some were admitted since
        return len(known - self.settled) < self.still_needed

    def told(self, found: str | None = None) -> str:
        """Say what there is, and why there is no more; in names and phrases of ours.

        Parameters
        ----------
        found
            What there is, where a round is not made of replies alone.
        """
        reasons = "; ".join(
            f"{each.site}: {each.reason}" for each in self.replies if each.status != "ok"
        )
        replies = "reply" if len(self.good) == 1 else "replies"
        needed = f"{len(self.good)} good {replies} of the {self._needed} that the study needs"
        return "; ".join(each for each in (found or needed, reasons) if each)

    def records(self, training: TrainingConfig) -> tuple[SiteRound, ...]:
        """Return the lines of the run's record."""
        return tuple(each.record(self._bytes_down[each.site], training) for each in self.replies)
