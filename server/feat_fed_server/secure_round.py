"""A round with secure aggregation: keys, shares, masked updates, and the masks of their sum.

::

    inbox/round-0007/SITE.safetensors    a masked update each
    inbox/round-0007/secure.json         all else that sites have sent: :class:`SecureState`

What has come is on the disk before the next is read, so that a server that was killed goes on in
the stage where it was. Where too few sites are left, the round begins again with new keys, and
sites answer from their spools; once sites have given shares for a sum, it stays that sum, for of
two sums of a round a single update could be told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from feat_fed.config import StudyConfig
from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.errors import CheckpointError, DropoutError, FederationError, ProtocolError
from feat_fed.masked import largest_move
from feat_fed.protocol import Assignment, Task, enclose, opened
from feat_fed.secagg import (
    KeyOffer,
    ServerSecAgg,
    ServerState,
    Session,
    ShareOffer,
    Shares,
    read_state,
    write_state,
)
from feat_fed.secagg.messages import MOST_SITES
from feat_fed_server.again import Again
from feat_fed_server.asking import Asking
from feat_fed_server.inbox import Arrived, Inbox
from feat_fed_server.question import Question
from feat_fed_server.replies import Reply
from feat_fed_server.roster import Roster
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.sampling import draw
from feat_fed_server.tally import MAX_ATTEMPTS, Tally

log = logging.getLogger(__name__)

MOST_BEGINNINGS = 5
"""Of one round with new keys, without a break of the server."""

MessageT = TypeVar("MessageT", bound=BaseModel)
Take = Callable[[Reply], None]
"""Takes what a good reply encloses; raises ProtocolError where it is not in order."""


class SecureState(StrictModel):
    """The content of ``secure.json``."""

    schema_version: Literal[1] = 1
    largest: float
    """That a weight may move in the round: the grid's."""
    aggregation: ServerState

    @classmethod
    def read(cls, inbox: Inbox) -> SecureState | None:
        """Return what lies beside a round's masked updates, if anything does.

        Raises
        ------
        CheckpointError
            If it is damaged.
        """
        return read_state(_state_path(inbox), cls)


class SecureRound:
    """One round's stages.

    Parameters
    ----------
    question
        The training of the round, as it would be asked without masks.
    tally
        Gets each site's reply to it.
    inbox
        Of the round; nothing but masked updates is in it.
    """

    def __init__(
        self,
        study: StudyConfig,
        question: Question,
        *,
        asking: Asking,
        roster: Roster,
        audit: RunAudit,
        inbox: Inbox,
        tally: Tally,
    ) -> None:
        config = study.privacy.secure_aggregation
        if config is None:
            raise ValueError("a study without secure aggregation has no secure rounds")
        self._config: SecureAggregationConfig = config
        self._study = study
        self._question = question
        self._asking = asking
        self._roster = roster
        self._audit = audit
        self._inbox = inbox
        self._tally = tally
        self._number = question.assignment.round
        self._largest = largest_move(study, question.assignment.clip_norm)
        self._server = self._restored()
        self._drop_others()
        tally.add([known_reply(each) for each in inbox.arrived()])

    def gather(self) -> None:
        """Ask until the sum of enough updates can be told.

        Raises
        ------
        FederationError
            If it cannot, whatever is tried.
        """
        again = Again(self._asking, self._study.sites, self._number)
        for beginning in range(1, MOST_BEGINNINGS + 1):
            try:
                self._keys()
                self._shares()
                self._train()
                self._unmask()
                return
            except DropoutError as error:
                self._begin_again(error)
                if beginning == MOST_BEGINNINGS:
                    raise FederationError(
                        f"round {self._number} began {beginning} times with new keys: {error}"
                    ) from error
                again.wait(self._tally)

    def _keys(self) -> None:
        """Stage 0: the sites that offer keys are the round's."""
        state, sites = self._server.state, self._study.sites
        if state.roster is not None:
            return
        missing = max(0, sites.minimum - len(state.offers))
        self._ask(
            "keys",
            needed=missing,
            but=self._tally.settled | state.offers.keys(),
            draw=lambda there: draw(
                there,
                per_round=sites.per_round,
                seed=self._study.seed,
                round_number=self._number,
                done=state.offers,
                tried=self._tally.tried,
                still_needed=missing,
            )[:MOST_SITES],
            take=self._take_keys,
        )
        self._require(len(self._server.state.offers), "offered keys")
        self._server.roster()
        self._write()

    def _shares(self) -> None:
        """Stage 1: those that deal shares mask with each other."""
        if self._server.state.sharing is None:
            roster = self._server.roster()
            targets = {*roster.names} - self._server.state.dealt.keys()
            told = enclose(roster)
            self._ask_those("shares", dict.fromkeys(targets, told), take=self._take_shares)
            self._require(len(self._server.state.dealt), "dealt shares")
            sharing = self._server.deal().keys()
            self._write()
            self._audit.masks("masks-agreed", self._number, self._attempt, sharing)

    def _train(self) -> None:
        """Stage 2: masked updates come; sites that fail are asked again while they are needed."""
        told = {site: enclose(each) for site, each in self._server.deal().items()}
        while (left := self._still_to_train(told)) is not None:
            self._tally.add(self._ask_to_train(left))
            if self._server.state.request is None:
                self._end_training(can_ask_again=self._tally.failed & told.keys())

    def _still_to_train(self, told: Mapping[str, str]) -> dict[str, str] | None:
        """Return whose update is wanted now; None: all that are needed are here."""
        here, request = {*self._tally.good}, self._server.state.request
        if request is None:
            return {
                site: each for site, each in told.items() if site not in here | self._tally.settled
            }
        lost = {*request.survivors} - here  # damaged on this disk since
        if lost & self._tally.settled:
            raise FederationError(
                f"round {self._number}: masked updates that are part of the sum are lost: "
                f"{', '.join(sorted(lost))}"
            )
        return {site: told[site] for site in lost} or None

    def _ask_to_train(self, told: Mapping[str, str]) -> list[Reply]:
        question = replace(self._question, assignment=self._told("train"), enclosed=told)
        return self._asking.ask(
            question,
            needed=0,
            but=self._others(told),
            replied=self._tally.good,
            draw=lambda there: [each for each in there if each in told],
            accept=self._accept_update,
        )

    def _end_training(self, *, can_ask_again: Collection[str]) -> None:
        """Fix whose updates are summed up, if they are enough."""
        try:
            self._require(len(self._tally.good), "sent masked updates")
            for site in self._tally.good:
                self._server.take_masked(site)
            self._server.request()
        except DropoutError:
            if not can_ask_again:
                raise
            log.warning("round %d has %s", self._number, self._tally.told())
        self._write()

    def _unmask(self) -> None:
        """Stage 4: survivors give shares of the masks that are left on the sum."""
        request, sharing = self._server.request(), self._server.deal().keys()
        dropped = sharing - {*request.survivors}
        if dropped:
            log.warning("round %d is without %s", self._number, ", ".join(sorted(dropped)))
        for _ in range(MAX_ATTEMPTS):
            if self._server.is_recoverable:
                break
            given = self._server.state.shares.keys()
            told = dict.fromkeys({*request.survivors} - given, enclose(request))
            needed = max(1, self._server.threshold - len(given))
            self._ask_those("unmask", told, take=self._take_unmask, needed=min(needed, len(told)))
        self._require_recoverable()
        self._audit.unmasked(self._number, self._attempt, request.survivors, dropped)

    def _require_recoverable(self) -> None:
        try:
            self._server.recover()
        except DropoutError as error:
            if not self._server.state.shares:
                raise
            raise FederationError(
                f"round {self._number}: {error}. What came is kept, and the same command goes on "
                "when these sites are back"
            ) from error
        except ProtocolError as error:
            raise FederationError(f"round {self._number} cannot be unmasked: {error}") from error

    def _take_keys(self, reply: Reply) -> None:
        offer = _enclosed(reply, KeyOffer)
        if not self._roster.is_key_of(reply.site, offer.identity):
            error = f"{reply.site}: keys under another public key than it registered"
            raise ProtocolError(error, refusal="agreement")
        self._server.take_keys(offer, sender=reply.site, identity=offer.identity)

    def _take_shares(self, reply: Reply) -> None:
        self._server.take_shares(_enclosed(reply, ShareOffer), sender=reply.site)

    def _take_unmask(self, reply: Reply) -> None:
        self._server.take_unmask(_enclosed(reply, Shares), sender=reply.site)

    def _accept_update(self, reply: Reply) -> Reply:
        """Put a masked update into the inbox; of what is in it, nothing can be told."""
        if reply.report is None or reply.weights is None:
            return reply
        arrived = Arrived(
            report=reply.report,
            norm=0.0,
            bytes_down=reply.bytes_down,
            bytes_up=reply.bytes_up,
            base_round=self._number,
            digest=reply.digest or "",
            answer_sec=reply.answer_sec,
            answered_at=reply.answered_at,
        )
        self._inbox.put(arrived, reply.weights)
        return replace(reply, weights=None)

    def _ask_those(
        self, task: Task, told: Mapping[str, str], *, take: Take, needed: int = 0
    ) -> None:
        """Ask some sites, each for the answer to what it is told."""
        self._ask(
            task,
            needed=needed,
            but=self._others(told),
            draw=lambda there: [each for each in there if each in told],
            take=take,
            enclosed=told,
        )

    def _ask(
        self,
        task: Task,
        *,
        needed: int,
        but: Collection[str],
        draw: Callable[[Collection[str]], Collection[str]],
        take: Take,
        enclosed: Mapping[str, str] | None = None,
    ) -> None:
        """Ask for a short stage; what is good is on the disk before the next is read."""

        def accept(reply: Reply) -> Reply:
            if reply.status != "ok":
                return reply
            try:
                take(reply)
            except ProtocolError as error:
                log.warning("%s: refused: %s", reply.site, error)
                return reply.refused(error)
            self._write()
            return reply

        question = Question(
            self._told(task),
            None,
            self._question.desk,
            self._question.taken,
            enclosed or {},
            min(self._config.stage_sec, self._study.sites.round_sec),
        )
        replies = self._asking.ask(
            question, needed=needed, but=frozenset(but), draw=draw, accept=accept
        )
        self._tally.add([each for each in replies if each.status != "ok"])

    def _begin_again(self, error: DropoutError) -> None:
        """Open the round anew with other keys; what was masked with the old ones is of no use."""
        log.warning(
            "round %d begins again with new keys, for which sites do not train again: %s",
            self._number,
            error,
        )
        before = self._server.state
        left = before.sharing or sorted(before.dealt) or sorted(before.offers)
        self._audit.masks("masks-given-up", self._number, self._attempt, left)
        self._server = self._begun(before.session.attempt + 1)
        self._write()
        self._drop_others()
        self._tally.reopen()

    def _require(self, sites: int, did: str) -> None:
        fewest = self._study.sites.minimum
        if sites < fewest:
            raise DropoutError(f"{sites} sites have {did}; the study needs {fewest}")

    def _others(self, told: Mapping[str, str]) -> frozenset[str]:
        return frozenset({*self._roster.expected} - told.keys())

    def _told(self, task: Task) -> Assignment:
        update = {"task": task, "attempt": self._attempt}
        return self._question.assignment.model_copy(update=update)

    @property
    def _attempt(self) -> int:
        return self._server.state.session.attempt

    def _restored(self) -> ServerSecAgg:
        """Return what a server that was killed has left of this very round, or a new beginning."""
        attempt = 1
        try:
            state = SecureState.read(self._inbox)
        except CheckpointError as error:
            log.warning("round %d begins again with new keys: %s", self._number, error)
            state = None
        if state and self._is_ours(state.aggregation.session):
            if state.aggregation.request is not None or self._is_as_agreed(state):
                self._largest = state.largest
                return ServerSecAgg(state.aggregation)
            attempt = state.aggregation.session.attempt + 1
        self._server = self._begun(attempt)
        self._write()
        return self._server

    def _is_ours(self, session: Session) -> bool:
        told = self._question.assignment
        return (session.study_id, session.round) == (told.study_id, self._number)

    def _is_as_agreed(self, state: SecureState) -> bool:
        """Whether the study says the same as when the round began."""
        return (state.largest, state.aggregation.config) == (self._largest, self._config)

    def _begun(self, attempt: int) -> ServerSecAgg:
        session = Session(
            study_id=self._question.assignment.study_id, round=self._number, attempt=attempt
        )
        return ServerSecAgg.begin(session, self._config)

    def _write(self) -> None:
        state = SecureState(largest=self._largest, aggregation=self._server.state)
        write_state(_state_path(self._inbox), state)

    def _drop_others(self) -> None:
        """Remove updates from the inbox that other masks than this attempt's are on."""
        sharing = self._server.state.sharing or ()
        for each in self._inbox.arrived():
            if each.report.attempt != self._attempt or each.report.site not in sharing:
                self._inbox.discard(each.report.site)


def _enclosed(reply: Reply, kind: type[MessageT]) -> MessageT:
    return opened(reply.report.enclosed if reply.report else None, kind)


def known_reply(arrived: Arrived) -> Reply:
    """Return the reply of a masked update that was there when the server started."""
    return Reply(
        arrived.report.site,
        "ok",
        report=arrived.report,
        bytes_down=arrived.bytes_down,
        bytes_up=arrived.bytes_up,
        digest=arrived.digest,
        answer_sec=arrived.answer_sec,
        answered_at=arrived.answered_at,
    )


def _state_path(inbox: Inbox) -> Path:
    return inbox.folder / "secure.json"
