"""A round with secure aggregation: keys, shares, masked updates, and the masks of their sum.

What has come is on the disk (:mod:`feat_fed_server.secure_state`) before the next is read, so that
a server that was killed goes on in the stage where it was. Where too few sites are left, the round
begins again with new keys, and sites answer from their spools; once sites have given shares for a
sum, it stays that sum, for of two sums of a round a single update could be told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from feat_fed.errors import CheckpointError, DropoutError, FederationError, ProtocolError
from feat_fed.masked import largest_move
from feat_fed.protocol import enclose, opened
from feat_fed.secagg import KeyOffer, ServerSecAgg, ServerState, Session, ShareOffer, Shares
from feat_fed.secagg.messages import MOST_SITES
from feat_fed_server.again import Again
from feat_fed_server.intake import known_reply
from feat_fed_server.replies import Reply
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.sampling import draw
from feat_fed_server.secure_asking import SecureAsking
from feat_fed_server.secure_state import SecureState
from feat_fed_server.tally import MAX_ATTEMPTS, Tally

log = logging.getLogger(__name__)

MOST_BEGINNINGS = 5
"""Of one round with new keys, without a break of the server."""

MessageT = TypeVar("MessageT", bound=BaseModel)


class SecureRound:
    """One round's stages.

    Parameters
    ----------
    asking
        Asks the round's questions; nothing but masked updates is in its inbox.
    tally
        Gets what each site answers.
    """

    def __init__(self, asking: SecureAsking, *, audit: RunAudit, tally: Tally) -> None:
        self._asking = asking
        self._audit = audit
        self._tally = tally
        self._number = asking.number
        self._largest = largest_move(asking.study, asking.training.assignment.clip_norm)
        self._server = self._restored()
        self._write()
        known = (known_reply(each, self._number) for each in asking.inbox.arrived())
        tally.add([replace(each, norm=None) for each in known])

    def gather(self) -> None:
        """Ask until the sum of enough updates can be told.

        Raises
        ------
        FederationError
            If it cannot, whatever is tried.
        """
        again = Again(self._asking.asking, self._asking.study.sites, self._number)
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
                again.wait(self._tally, str(error))

    def _keys(self) -> None:
        """Stage 0: the sites that offer keys are the round's."""
        state, sites = self._server.state, self._asking.study.sites
        if state.roster is not None:
            return
        missing = max(0, sites.minimum - len(state.offers))
        replies = self._asking.ask(
            "keys",
            self._attempt,
            take=self._taking(self._take_keys),
            draw=lambda there: draw(
                there,
                per_round=sites.per_round,
                seed=self._asking.study.seed,
                round_number=self._number,
                done=state.offers,
                tried=self._tally.tried,
                still_needed=missing,
            )[: MOST_SITES - len(state.offers)],
            but=self._tally.settled | state.offers.keys(),
            needed=missing,
        )
        self._note(replies)
        self._require(len(self._server.state.offers), "offered keys")
        self._server.roster()
        self._write()

    def _shares(self) -> None:
        """Stage 1: those that deal shares mask with each other."""
        if self._server.state.sharing is not None:
            return
        roster = self._server.roster()
        left = {*roster.names} - self._server.state.dealt.keys()
        told = dict.fromkeys(left, enclose(roster))
        take = self._taking(self._take_shares)
        self._note(self._asking.ask_those("shares", self._attempt, told, take=take))
        self._require(len(self._server.state.dealt), "dealt shares")
        sharing = self._server.deal().keys()
        self._write()
        self._audit.masks("masks-agreed", self._number, self._attempt, sharing)

    def _train(self) -> None:
        """Stage 2: masked updates come; sites that fail are asked again while they are needed."""
        told = {site: enclose(each) for site, each in self._server.deal().items()}
        while (left := self._still_to_train(told)) is not None:
            is_summed = self._server.state.request is not None
            # Without all of a sum's updates there is no sum; before, it is made without some.
            needed = len(left) if is_summed else 0
            good = self._tally.good
            self._tally.add(self._asking.train(self._attempt, left, replied=good, needed=needed))
            if not is_summed:
                self._end_training(can_ask_again=self._tally.failed & told.keys())

    def _still_to_train(self, told: Mapping[str, str]) -> dict[str, str] | None:
        """Return whose update is wanted now; None: all that are needed are here."""
        here, request = {*self._tally.good}, self._server.state.request
        if request is None:
            done = here | self._tally.settled
            return {site: each for site, each in told.items() if site not in done}
        lost = {*request.survivors} - here  # damaged on this disk since
        if lost & self._tally.settled:
            raise FederationError(
                f"round {self._number}: masked updates that are part of the sum are lost: "
                f"{', '.join(sorted(lost))}"
            )
        return {site: told[site] for site in lost} or None

    def _end_training(self, *, can_ask_again: Collection[str]) -> None:
        """Fix whose updates are summed up, if they are enough."""
        try:
            self._require(len(self._tally.good), "sent masked updates")
            for site in self._tally.good:
                self._server.take_masked(site)
            self._server.request()
        except DropoutError as error:
            if not can_ask_again:
                raise
            log.warning("round %d: %s", self._number, self._tally.told(str(error)))
        self._write()

    def _unmask(self) -> None:
        """Stage 4: survivors give shares of the masks that are left on the sum."""
        request, sharing = self._server.request(), self._server.deal().keys()
        dropped = sharing - {*request.survivors}
        if dropped:
            log.warning("round %d is without %s", self._number, ", ".join(sorted(dropped)))
        take = self._taking(self._take_unmask)
        for _ in range(MAX_ATTEMPTS):
            if self._server.is_recoverable:
                break
            given = self._server.state.shares.keys()
            told = dict.fromkeys({*request.survivors} - given, enclose(request))
            needed = min(len(told), max(1, self._server.threshold - len(given)))
            self._note(
                self._asking.ask_those("unmask", self._attempt, told, take=take, needed=needed)
            )
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

    def _taking(self, take: Callable[[Reply], None]) -> Callable[[Reply], None]:
        """Return what takes a reply and has it on the disk before it returns."""

        def kept(reply: Reply) -> None:
            take(reply)
            self._write()

        return kept

    def _take_keys(self, reply: Reply) -> None:
        offer = _enclosed(reply, KeyOffer)
        if not self._asking.roster.is_key_of(reply.site, offer.identity):
            error = f"{reply.site}: keys under another public key than it registered"
            raise ProtocolError(error, refusal="agreement")
        self._server.take_keys(offer, sender=reply.site, identity=offer.identity)

    def _take_shares(self, reply: Reply) -> None:
        self._server.take_shares(_enclosed(reply, ShareOffer), sender=reply.site)

    def _take_unmask(self, reply: Reply) -> None:
        self._server.take_unmask(_enclosed(reply, Shares), sender=reply.site)

    def _note(self, replies: Collection[Reply]) -> None:
        """Tally what went wrong in a short stage; what is good of a site is its update."""
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
        self._server = self._begun(self._attempt + 1)
        self._write()
        self._tally.reopen()

    def _require(self, sites: int, did: str) -> None:
        fewest = self._asking.study.sites.minimum
        if sites < fewest:
            raise DropoutError(f"{sites} sites have {did}; the study needs {fewest}")

    @property
    def _attempt(self) -> int:
        return self._server.state.session.attempt

    def _restored(self) -> ServerSecAgg:
        """Return what a server that was killed has left of this very round, or a new beginning."""
        attempt = self._audit.last_attempt(self._number) + 1
        try:
            state = SecureState.read(self._asking.inbox)
        except CheckpointError as error:
            log.warning("round %d begins again with new keys: %s", self._number, error)
            state = None
        if state and self._is_ours(state.aggregation):
            if state.aggregation.request is not None or self._is_as_agreed(state):
                self._largest = state.largest
                return ServerSecAgg(state.aggregation)
            attempt = state.aggregation.session.attempt + 1
        return self._begun(attempt)

    def _is_ours(self, state: ServerState) -> bool:
        told = self._asking.training.assignment
        return (state.session.study_id, state.session.round) == (told.study_id, self._number)

    def _is_as_agreed(self, state: SecureState) -> bool:
        """Whether the study says the same as when the round began."""
        now = (self._largest, self._asking.config)
        return (state.largest, state.aggregation.config) == now

    def _begun(self, attempt: int) -> ServerSecAgg:
        study_id = self._asking.training.assignment.study_id
        session = Session(study_id=study_id, round=self._number, attempt=attempt)
        return ServerSecAgg.begin(session, self._asking.config)

    def _write(self) -> None:
        state = SecureState(largest=self._largest, aggregation=self._server.state)
        state.write(self._asking.inbox)


def _enclosed(reply: Reply, kind: type[MessageT]) -> MessageT:
    return opened(reply.report.enclosed if reply.report else None, kind)
