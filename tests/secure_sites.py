"""A round of secure aggregation without a wire: sites, their updates and a server, in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric import ec

from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.joining import public_text
from feat_fed.secagg import Grid, Masks, Ring, Roster, ServerSecAgg, Session, SiteSecAgg

STUDY = "0123456789abcdef" * 2
FIRST = 3
"""Place of the first value: what is before it in the streams belongs to other tensors."""


@cache
def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def session(number: int = 1, attempt: int = 1, study: str = STUDY) -> Session:
    return Session(study_id=study, round=number, attempt=attempt)


def known(roster: Roster) -> dict[str, str]:
    return {each.site: each.fingerprint for each in roster.offers}


class SecureRound:
    """``stage_...`` runs a stage with those sites that are still there."""

    def __init__(
        self,
        sites: int,
        config: SecureAggregationConfig | None = None,
        *,
        values: int = 50,
        at: Session | None = None,
    ) -> None:
        self.config = config or SecureAggregationConfig()
        self.names = [f"site-{number}" for number in range(sites)]
        self.session = at or session()
        self.sites = {
            name: SiteSecAgg.begin(self.session, name, key_of(name)) for name in self.names
        }
        self.server = ServerSecAgg.begin(self.session, self.config)
        self.grid = Grid(1.0, sites)
        rng = np.random.default_rng(sites)
        self.updates = {
            name: self.grid.to_ring(torch.from_numpy(rng.uniform(-1, 1, values)))
            for name in self.names
        }
        self.sent: dict[str, Ring] = {}

    def stage_keys(self, gone: Collection[str] = ()) -> Roster:
        for name in self._left(self.names, gone):
            identity = public_text(key_of(name).public_key())
            self.server.take_keys(self.sites[name].keys(), sender=name, identity=identity)
        return self.server.roster()

    def stage_shares(self, gone: Collection[str] = ()) -> None:
        roster = self.server.roster()
        for name in self._left(roster.names, gone):
            offer = self.sites[name].shares(roster, self.config, known=known(roster))
            self.server.take_shares(offer, sender=name)

    def stage_masked(self, gone: Collection[str] = ()) -> None:
        deliveries = self.server.deal()
        for name in self._left(deliveries, gone):
            self.sent[name] = self.updates[name].copy()
            self.sites[name].masks(deliveries[name], values="0" * 64).apply(self.sent[name], FIRST)
            self.server.take_masked(name)

    def stage_unmask(self, gone: Collection[str] = ()) -> Masks:
        request = self.server.request()
        for name in self._left(request.survivors, gone):
            self.server.take_unmask(self.sites[name].unmask(request), sender=name)
        return self.server.recover()

    def until(self, stage: str) -> SecureRound:
        """Run all stages up to one, with all sites."""
        for name in ("keys", "shares", "masked", "unmask"):
            getattr(self, f"stage_{name}")()
            if name == stage:
                break
        return self

    def masked_sum(self, masks: Masks) -> Ring:
        total = self.plain_sum(self.sent, self.server.request().survivors)
        masks.apply(total, FIRST)
        return total

    @staticmethod
    def plain_sum(updates: dict[str, Ring], names: Iterable[str]) -> Ring:
        return np.sum([updates[name] for name in names], axis=0, dtype=np.uint32)

    @staticmethod
    def _left(names: Iterable[str], gone: Collection[str]) -> list[str]:
        return [name for name in names if name not in gone]
