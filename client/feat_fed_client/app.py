"""Flower's ClientApp of a site: read the assignment, do it, report; nothing else gets out.

Flower never loads this by what a server sends: the site's executor
(:mod:`feat_fed_client.executor`) imports the installed module.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from feat_fed.config import SiteConfig, load_site
from feat_fed.errors import DataError, FeatFedError, MissingBaseError
from feat_fed.protocol import FAILURES, Assignment, FailureCode, Report, verdict_text
from feat_fed.wire import from_records, to_records
from feat_fed_client import SITE_CONFIG
from feat_fed_client.clipped import clip_own
from feat_fed_client.copies import CopySearch
from feat_fed_client.exchanged import ExchangedWeights
from feat_fed_client.history import note_report, note_verdict
from feat_fed_client.known_study import remember_study
from feat_fed_client.last_door import DoorError, LastDoor
from feat_fed_client.limits import TRAINING_SHARE, DeclinedError
from feat_fed_client.round_bytes import answer_bytes
from feat_fed_client.round_files import tidy
from feat_fed_client.secure import SecurePart
from feat_fed_client.session import SiteSession
from feat_fed_client.site_audit import PrivacyCost
from feat_fed_client.supervision import Witness
from feat_fed_client.traffic import Traffic

log = logging.getLogger(__name__)


def make_app(
    site_of: Callable[[Context], SiteConfig],
    *,
    witness: Witness = lambda _: None,
    arrived_at: float | None = None,
    is_last: bool = False,
) -> ClientApp:
    """Return a ClientApp.

    Parameters
    ----------
    site_of
        Finds the site's configuration on this machine.
    witness
        Is told again and again that the work goes on.
    arrived_at
        Time of the message by ``time.monotonic``; None: when the app is called.
    is_last
        No process comes after this one at whose door the reply is looked at, as in a simulation.
    """
    app = ClientApp()

    def answered(message: Message, context: Context) -> Message:
        site = site_of(context)

        def work() -> Message:
            return answer(message, site, witness=witness, arrived_at=arrived_at)

        return let_out(work, message, site)[0] if is_last else work()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answered(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answered(message, context)

    for question in ("keys", "shares", "unmask", "memorisation"):

        @app.query(question)
        def tell(message: Message, context: Context) -> Message:
            return answered(message, context)

    return app


def let_out(
    work: Callable[[], Message], message: Message, site: SiteConfig
) -> tuple[Message, PrivacyCost | None]:
    """Return the reply that ``work`` makes to an assignment, as it may leave, and what it costs.

    In place of one that must not leave goes a code.

    Raises
    ------
    StorageError
        If the privacy ledger cannot be written.
    """
    assignment, _ = from_records(message.content, Assignment)
    try:
        return LastDoor(site, assignment).passed(work(), to=message)
    except DoorError as error:
        reference = secrets.token_hex(4)
        log.error("[%s] NOTHING LEAVES, stopped at the last door: %s", reference, error)
        return failure(message, site, "internal", reference), None


def answer(
    message: Message,
    site: SiteConfig,
    *,
    witness: Witness = lambda _: None,
    arrived_at: float | None = None,
) -> Message:
    """Do what the server asks. An error becomes a code; its text stays in the site's log."""
    arrived_at = time.monotonic() if arrived_at is None else arrived_at
    try:
        assignment, buckets = from_records(message.content, Assignment)
    except FeatFedError as error:
        # Without an assignment there is no study and round to put on a report.
        log.exception("a message that is no assignment")
        raise Unreadable(FAILURES["protocol"]) from error
    remember_study(site.store, assignment)
    traffic = Traffic(site.store, assignment)
    if assignment.moves_weights or buckets:
        traffic.received(sum(map(len, buckets)), message_id=message.metadata.message_id)
    if assignment.verdict:
        hear_verdict(site.store, assignment)
    # A message may live longer than the server waits, for answers that come late.
    given_sec = min(
        message.metadata.ttl, assignment.answer_within_sec or assignment.study.sites.round_sec
    )
    train_until = arrived_at + TRAINING_SHARE * given_sec
    try:
        secure = SecurePart.of(site, assignment)
        if secure is not None and assignment.task != "train":
            return Message(to_records(secure.answer()), reply_to=message)
        if assignment.task == "memorisation":
            traffic.require(site.limits, up_bytes=answer_bytes(assignment))
            report = CopySearch(site, assignment, witness=witness).answer(buckets)
            note_report(site.store, report)
            return Message(to_records(report), reply_to=message)
        tidy(site.store, study_id=assignment.study_id)
        exchanged = ExchangedWeights(site.store, assignment)
        # Also where the round is declined: asked again, it comes without weights.
        weights = exchanged.receive(buckets)
        traffic.require(site.limits, up_bytes=answer_bytes(assignment))
        session = SiteSession(site, witness=witness, train_until=train_until)
        report, trained = session.run(assignment, weights)
        report, trained = clip_own(assignment, site, report, trained, weights)
        report = report.model_copy(update={"holds": exchanged.held})
        if secure is not None:
            report, update = secure.masked(report, trained, weights)
        else:
            update = exchanged.encode(trained, weights) if trained else []
        traffic.sent(sum(map(len, update)))
        note_report(site.store, report)
        return Message(to_records(report, update), reply_to=message)
    except MissingBaseError as error:
        log.info("round %d: the weights have to come whole: %s", assignment.round, error)
        return Message(to_records(_failed(assignment, site, "base")), reply_to=message)
    except DeclinedError as declined:
        warned = ("privacy", "protection", "release")
        level = logging.WARNING if declined.limit in warned else logging.INFO
        log.log(level, "round %d declined: %s", assignment.round, declined)
        report = _declined(assignment, site, declined)
        note_report(site.store, report)
        return Message(to_records(report), reply_to=message)
    except Exception as error:
        reference = secrets.token_hex(4)
        log.exception("[%s] round %d failed", reference, assignment.round)
        return failure(message, site, failure_code(error), reference)


def failure(message: Message, site: SiteConfig, code: FailureCode, reference: str) -> Message:
    """Reply to an assignment that it could not be done.

    Raises
    ------
    ProtocolError
        If the message is no assignment.
    """
    assignment, _ = from_records(message.content, Assignment)
    report = _failed(assignment, site, code, reference)
    note_report(site.store, report)
    return Message(to_records(report), reply_to=message)


class Unreadable(Exception):  # noqa: N818
    """The server's message cannot be answered; its text is a fixed phrase."""


def hear_verdict(store: Path, assignment: Assignment) -> None:
    """Keep and log what the server said of the site's last answer."""
    verdict = assignment.verdict
    if verdict is None or not note_verdict(store, assignment.study_id, verdict):
        return
    if verdict.outcome == "accepted":
        log.info("round %d: the server took the update", verdict.round)
    else:
        told = verdict_text(verdict, assignment.study.screening.quarantine_after)
        log.warning("round %d: %s", verdict.round, told)


def _failed(
    assignment: Assignment, site: SiteConfig, code: FailureCode, reference: str | None = None
) -> Report:
    return Report(
        study_id=assignment.study_id,
        round=assignment.round,
        task=assignment.task,
        site=site.name,
        outcome="failed",
        code=code,
        reference=reference,
        holds=ExchangedWeights(site.store, assignment).held,
        attempt=assignment.attempt,
    )


def _declined(assignment: Assignment, site: SiteConfig, declined: DeclinedError) -> Report:
    """Return what the server learns: which limit, and neither hours nor numbers."""
    return Report(
        study_id=assignment.study_id,
        round=assignment.round,
        task=assignment.task,
        site=site.name,
        outcome="declined",
        code=declined.limit,
        holds=ExchangedWeights(site.store, assignment).held,
        attempt=assignment.attempt,
    )


def failure_code(error: BaseException) -> FailureCode:
    """Return the class of an error: all that the server learns of it."""
    if any(_is_of_storage(each) for each in _causes(error)):
        return "storage"
    if isinstance(error, MemoryError):
        return "memory"
    kind = "data" if isinstance(error, DataError) else getattr(error, "code", None)
    return next((code for code in FAILURES if code == kind), "internal")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_of_storage(error: BaseException) -> bool:
    """Whether a disk is full or read-only, whatever was to be written."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_READONLY,
        )
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
    )


def site_of_this_machine(_: object = None) -> SiteConfig:
    """Return the site's configuration, which the environment names."""
    return load_site(Path(os.environ[SITE_CONFIG]))


app = make_app(site_of_this_machine)
