"""A site's part in secure aggregation: keys, shares, its masked update, unmasking.

::

    secagg/STUDY_ID/state.json    the secrets of the last round, for its owner alone
    secagg/STUDY_ID/last.json     which it was, and whether it was unmasked; it is never removed

Each stage is on the disk before its answer leaves. One that is asked again is answered with the
same bytes, and one that is asked differently is refused: the state machine is
:class:`feat_fed.secagg.SiteSecAgg`. What the site trained is in its spool meanwhile, so that a
round that begins again with new keys is not trained again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel
from torch import Tensor

from feat_fed.config import SiteConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import AgreementError, DropoutError
from feat_fed.masked import OwnUpdate, largest_move, num_counters
from feat_fed.protocol import Assignment, Report, enclose, opened
from feat_fed.secagg import (
    Deliveries,
    Grid,
    Roster,
    Session,
    SiteSecAgg,
    SiteState,
    UnmaskRequest,
    read_state,
    write_state,
)
from feat_fed_client.budget import require_protections
from feat_fed_client.keys import identity_key
from feat_fed_client.limits import SiteLimits
from feat_fed_client.peers import known_peers
from feat_fed_client.spool import Spool

MessageT = TypeVar("MessageT", bound=BaseModel)

FOLDER, STATE_FILE, LAST_FILE = "secagg", "state.json", "last.json"
_LAST_MEND = "put it back from a backup: without it a round could be unmasked twice"


class LastSession(StrictModel):
    """What a site must know of a study's rounds even when their secrets are gone."""

    schema_version: Literal[1] = 1
    session: Session
    unmasked: bool

    @classmethod
    def of(cls, state: SiteState) -> LastSession:
        """Return what is left of a state without its secrets."""
        return cls(session=state.offer.session, unmasked=state.survivors is not None)

    def require_later(self, session: Session) -> None:
        """Raise :class:`AgreementError` where :meth:`SiteSecAgg.begin` would of the whole state."""
        last = self.session
        is_older = (session.round, session.attempt) < (last.round, last.attempt)
        if is_older or (self.unmasked and session.round == last.round):
            raise AgreementError(
                f"round {session.round}, attempt {session.attempt} of secure aggregation is asked "
                f"after round {last.round}, attempt {last.attempt}; two sums of a round would tell "
                "single updates"
            )


class SecurePart:
    """One assignment of a study with secure aggregation.

    Raises
    ------
    AgreementError
        If the assignment does not fit the study: an update that is asked for without masks, say.
    """

    def __init__(self, site: SiteConfig, assignment: Assignment) -> None:
        self._site = site
        self._told = assignment
        config = assignment.study.privacy.secure_aggregation
        if config is None or assignment.attempt is None:
            raise AgreementError("the server asks for more than sums of updates")
        self._config = config
        self._session = Session(
            study_id=assignment.study_id, round=assignment.round, attempt=assignment.attempt
        )

    @classmethod
    def of(cls, site: SiteConfig, assignment: Assignment) -> SecurePart | None:
        """Return the assignment's part, if it has one.

        Raises
        ------
        AgreementError
            As by the class.
        """
        needed = assignment.study.privacy.secure_aggregation is not None
        if assignment.task in ("evaluate", "memorisation"):
            return None
        if not needed and (site.store / FOLDER / assignment.study_id / LAST_FILE).exists():
            raise AgreementError(
                "an update without masks is asked for in a study that had secure aggregation before"
            )
        if not needed and assignment.attempt is None:
            return None
        return cls(site, assignment)

    def answer(self) -> Report:
        """Do what a stage without weights asks for.

        Raises
        ------
        ProtocolError
            If what came is not in order.
        DeclinedError
            If the site's limits or its demands on privacy forbid that a round begins.
        """
        told = self._told
        answers = {"keys": self._keys, "shares": self._shares, "unmask": self._unmask}
        enclosed = enclose(answers[told.task]())
        return Report(
            study_id=told.study_id,
            round=told.round,
            task=told.task,
            site=self._site.name,
            outcome="ok",
            attempt=told.attempt,
            enclosed=enclosed,
        )

    def masked(
        self, report: Report, trained: Mapping[str, Tensor], received: Mapping[str, Tensor]
    ) -> tuple[Report, list[bytes]]:
        """Return the report and the buckets of an update, which only the others' can unmask.

        Raises
        ------
        ProtocolError
            If the masks have hidden other values before, among others.
        TrainingError
            If a weight is not finite.
        """
        aggregation = self._resumed()
        deliveries = self._enclosed(Deliveries)
        if (roster := aggregation.state.roster) is None:
            raise AgreementError("an update is asked for before the roster of sites came")
        study = self._told.study
        largest = largest_move(study, self._told.clip_norm)
        counters = [int(bool(report.within_clip_norm))] * num_counters(study)
        update = OwnUpdate(trained, received, Grid(largest, sites=len(roster.offers)), counters)
        masks = aggregation.masks(deliveries, values=update.digest())
        self._keep(aggregation)
        told = {"attempt": self._told.attempt, "within_clip_norm": None}
        return report.model_copy(update=told), update.masked(masks)

    def _keys(self) -> BaseModel:
        require_protections(self._site, self._told.study)
        # What is trained already needs none of what the limits keep back.
        if not Spool.of(self._site.store, study_id=self._told.study_id).holds(self._told.round):
            SiteLimits.of(self._site).require_open()
        previous = read_state(self._path, SiteState)
        last = read_state(self._last, LastSession, mend=_LAST_MEND)
        if previous is None and last is not None:
            last.require_later(self._session)
        aggregation = SiteSecAgg.begin(
            self._session, self._site.name, identity_key(self._site), previous=previous
        )
        self._keep(aggregation)
        return aggregation.keys()

    def _shares(self) -> BaseModel:
        aggregation, roster = self._resumed(), self._enclosed(Roster)
        known = known_peers(self._site, roster)
        try:
            answer = aggregation.shares(roster, self._config, known=known)
        except DropoutError as error:
            raise AgreementError(str(error)) from error
        self._keep(aggregation)
        return answer

    def _unmask(self) -> BaseModel:
        aggregation, request = self._resumed(), self._enclosed(UnmaskRequest)
        fewest = self._told.study.sites.minimum
        if len(request.survivors) < fewest:
            raise AgreementError(
                f"the sum of {len(request.survivors)} updates is asked for; the study needs "
                f"{fewest} sites"
            )
        shares = aggregation.unmask(request)
        self._keep(aggregation)
        return shares

    def _resumed(self) -> SiteSecAgg:
        """Return the session as it was left."""
        state = read_state(self._path, SiteState)
        if state is None or state.offer.session != self._session:
            raise AgreementError(
                f"the keys of attempt {self._session.attempt} at round {self._session.round} are "
                "not here (any more); the round has to begin again with new ones"
            )
        return SiteSecAgg(state)

    def _keep(self, aggregation: SiteSecAgg) -> None:
        write_state(self._last, LastSession.of(aggregation.state))
        write_state(self._path, aggregation.state)

    def _enclosed(self, kind: type[MessageT]) -> MessageT:
        return opened(self._told.enclosed, kind)

    @property
    def _path(self) -> Path:
        return self._site.store / FOLDER / self._told.study_id / STATE_FILE

    @property
    def _last(self) -> Path:
        return self._site.store / FOLDER / self._told.study_id / LAST_FILE
