"""What the coordinator's side remembers of each site from round to round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import Field

from feat_fed.config import ScreeningConfig, SitesConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import RefusalCode
from feat_fed.protocol import LedgerHead, Verdict
from feat_fed.report.records import SiteStatus
from feat_fed.report.round_manifest import Standing as StandingTree
from feat_fed.report.round_manifest import read_manifest
from feat_fed.report.run_store import RunStore
from feat_fed_server.deadlines import KEPT, PastRound, deadline_sec
from feat_fed_server.site_orders import SiteOrders

_OFFENCES = 20
_NORMS = 64
_DIGEST_ROUNDS = 8


class Offence(StrictModel):
    """An update that was refused."""

    round: int
    code: RefusalCode


class Answer(StrictModel):
    """A round's part of one site, as far as it counts afterwards."""

    site: str
    status: SiteStatus
    code: RefusalCode | None = None
    digest: str | None = Field(None, description="of the update as it travelled")
    log_norm: float | None = None
    answer_sec: float | None = None
    train_sec: float = 0.0
    answered_at: float | None = Field(None, description="Unix time")
    of_round: int | None = Field(None, description="that it answers, where that is an earlier one")
    ledger: LedgerHead | None = Field(None, description="of the site's privacy ledger")


class SiteStanding(StrictModel):
    """One site's."""

    offences: tuple[Offence, ...] = ()
    in_a_row: int = Field(0, description="rounds with a refused update since the last good one")
    quarantined_in: int | None = Field(None, description="the round that it was quarantined in")
    verdict: Verdict | None = None
    past: tuple[tuple[float, float], ...] = Field(
        (), description="seconds to the answer and of training, of its last rounds"
    )
    misses: int = Field(0, description="rounds since in which its time was up")
    answered_at: float | None = Field(None, description="Unix time of its last answer")
    ledger: LedgerHead | None = Field(
        None, description="the furthest that it has told of its privacy ledger, which is told back"
    )

    def deadline_sec(self, sites: SitesConfig, *, transfer_sec: float = 0.0) -> float:
        """Return how long the site is waited for."""
        past = [PastRound(*each) for each in self.past]
        return deadline_sec(past, self.misses, sites=sites, transfer_sec=transfer_sec)

    def after(self, number: int, answer: Answer, *, quarantine_after: int | None) -> Self:
        """Return the standing after a round's part of the site.

        Each refusal counts, once a round, and an accepted update forgives those before. Failing,
        declining and being late or silent are no offences, and forgive none.
        """
        answered = answer.answer_sec is not None and answer.status in ("ok", "late", "refused")
        now = (self._timed(answer) if answered else self)._anchored(answer.ledger)
        if answer.status == "missing":
            now = now.model_copy(update={"misses": self.misses + 1})
        if answer.status == "refused" and answer.code is not None:
            now = now._refused(number, answer.code, quarantine_after=quarantine_after)
        if answer.status == "ok":
            now = now.model_copy(update={"in_a_row": 0})
        verdict = _verdict(number, answer, in_a_row=now.in_a_row)
        return now.model_copy(update={"verdict": verdict}) if verdict else now

    def _timed(self, answer: Answer) -> Self:
        took = (answer.answer_sec or 0.0, answer.train_sec)
        past = (*self.past, took)[-KEPT:]
        return self.model_copy(
            update={"past": past, "misses": 0, "answered_at": answer.answered_at}
        )

    def _anchored(self, told: LedgerHead | None) -> Self:
        if told is None or (self.ledger and told.line <= self.ledger.line):
            return self
        return self.model_copy(update={"ledger": told})

    def _refused(self, number: int, code: RefusalCode, *, quarantine_after: int | None) -> Self:
        in_a_row = self.in_a_row + 1
        out = quarantine_after is not None and in_a_row >= quarantine_after
        offences = (*self.offences, Offence(round=number, code=code))[-_OFFENCES:]
        return self.model_copy(
            update={
                "offences": offences,
                "in_a_row": in_a_row,
                "quarantined_in": number if out else self.quarantined_in,
            }
        )


class Standing(StrictModel):
    """All sites', and what new updates are compared with; a part of the run's state."""

    schema_version: Literal[1] = 1
    sites: dict[str, SiteStanding] = Field(default_factory=dict)
    log_norms: tuple[float, ...] = Field((), description="of the last updates that were accepted")
    digests: tuple[tuple[int, str, str], ...] = Field(
        (), description="round, site and digest of what was sent in the last rounds"
    )

    @classmethod
    def of_state(cls, tree: StandingTree) -> Self:
        """Read what a run's state holds."""
        return cls.model_validate(dict(tree))

    def of(self, site: str) -> SiteStanding:
        """Return a site's, known or not."""
        return self.sites.get(site, SiteStanding())

    def quarantined(self) -> tuple[str, ...]:
        """Return who is not asked for the updates that it sent."""
        return tuple(
            name for name, each in sorted(self.sites.items()) if each.quarantined_in is not None
        )

    def sent_before(self) -> dict[str, str]:
        """Return sites by the digest of what they sent in the last rounds."""
        return {digest: site for _, site, digest in self.digests}

    def with_orders(self, orders: SiteOrders) -> Self:
        """Return the standing with quarantines lifted that the coordinator has lifted.

        An order names the round of the quarantine that it lifts: a later one holds.
        """
        lifted = {
            name: each.model_copy(update={"quarantined_in": None, "in_a_row": 0})
            for name, each in self.sites.items()
            if each.quarantined_in is not None
            and each.quarantined_in <= orders.readmitted.get(name, 0)
        }
        return self.model_copy(update={"sites": {**self.sites, **lifted}}) if lifted else self

    def after_round(
        self, number: int, answers: Iterable[Answer], *, screening: ScreeningConfig
    ) -> Self:
        """Return the standing after a round, by the last answer of each site to it."""
        answers = sorted(answers, key=lambda each: each.site)
        accepted = [each.log_norm for each in answers if each.status == "ok"]
        log_norms = (*self.log_norms, *(each for each in accepted if each is not None))
        seen = [(number, each.site, each.digest) for each in answers if each.digest]
        kept = [each for each in self.digests if number - _DIGEST_ROUNDS < each[0] < number]
        sites: Mapping[str, SiteStanding] = {
            each.site: self.of(each.site).after(
                number, each, quarantine_after=screening.quarantine_after
            )
            for each in answers
        }
        return self.model_copy(
            update={
                "sites": {**self.sites, **sites},
                "log_norms": log_norms[-_NORMS:],
                "digests": (*kept, *seen),
            }
        )


def standing_of(store: RunStore) -> Standing:
    """Return the sites' standing after a run's last round, as its manifest tells.

    Raises
    ------
    CheckpointError
        If the manifest is damaged.
    """
    number = store.latest_round()
    if number is None or not store.manifest(number).exists():
        return Standing()
    return Standing.of_state(read_manifest(store.manifest(number)).standing)


def _verdict(number: int, answer: Answer, *, in_a_row: int) -> Verdict | None:
    """Return what the site is told, or None where it sent no update."""
    of_round = answer.of_round or number
    if answer.status == "ok" and answer.digest is not None:
        return Verdict(round=of_round, outcome="accepted")
    if answer.status == "late":
        return Verdict(round=of_round, outcome="late")
    if answer.status == "refused" and answer.code is not None:
        return Verdict(round=of_round, outcome="refused", code=answer.code, in_a_row=in_a_row)
    return None
