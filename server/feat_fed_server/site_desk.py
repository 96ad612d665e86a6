"""What a round must know of a site to ask it: whether it may, for how long, what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.config import SitesConfig
from feat_fed.protocol import Assignment
from feat_fed.report.links import LINKS_FILE, Link, Links
from feat_fed_server.site_orders import SiteOrders
from feat_fed_server.standing import Standing

QUARANTINED = "quarantined for the updates that it sent"
EXCLUDED = "excluded by the coordinator"


_CLOCKS_SEC = 60.0


@dataclass(frozen=True)
class SiteDesk:
    """Between two rounds' ends: the standing is the last round's, the orders are those of now.

    Parameters
    ----------
    run
        The run's folder, with the coordinator's orders and the links' speeds in it.
    moved
        Bytes of weights, down and up, of each site's last round.
    """

    run: Path
    sites: SitesConfig
    standing: Standing
    moved: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def kept_out(self) -> dict[str, str]:
        """Return who is not asked, and why.

        Raises
        ------
        RunError
            If the orders cannot be read.
        """
        orders = SiteOrders.read(self.run)
        quarantined = dict.fromkeys(self.standing.with_orders(orders).quarantined(), QUARANTINED)
        return quarantined | dict.fromkeys(orders.excluded, EXCLUDED)

    def standing_now(self) -> Standing:
        """Return the standing with the quarantines lifted that have been meanwhile."""
        return self.standing.with_orders(SiteOrders.read(self.run))

    def wait_sec(self, site: str) -> float:
        """Return how long a site is waited for."""
        down, up = self.moved.get(site, (0, 0))
        link = Links.read(self.run / LINKS_FILE).sites.get(site, Link())
        transfer_sec = link.sec_for(down_bytes=down, up_bytes=up)
        return self.standing.of(site).deadline_sec(self.sites, transfer_sec=transfer_sec)

    def personal(self, assignment: Assignment, site: str, *, within_sec: float) -> Assignment:
        """Return an assignment as it is sent to a site that has so much time."""
        return assignment.model_copy(
            update={
                "answer_within_sec": within_sec,
                "verdict": self.standing.of(site).verdict,
                "ledger": self.standing.of(site).ledger,
            }
        )

    def message_lives_sec(self, waits: Mapping[str, float]) -> float:
        """Return how long Flower keeps a round's messages and takes their answers.

        A little longer than anybody is waited for, since it goes by the clocks of both sides;
        a round longer where late answers are of use.
        """
        late_sec = self.sites.round_sec if self.sites.late_replies == "next-round" else 0.0
        return max(waits.values(), default=0.0) + late_sec + _CLOCKS_SEC
