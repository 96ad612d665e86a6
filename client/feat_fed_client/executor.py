"""The site's executor: the only thing that runs work for Flower's SuperNode.

Flower's own executor unpacks and runs whatever bundle the server sends. This one stands
in its place: it takes every task from the SuperNode (one left alone would block the
node), refuses all but a ClientApp of an approved bundle, never unpacks that bundle, and
calls the installed :mod:`feat_fed_client.app`. What came, what was decided and what leaves
is in the site's audit log before anything leaves; without that, nothing does but a code.

Each message is held by a child, and worked on by a child of that one
(:mod:`feat_fed_client.supervision`). Both are forked from this process after torch was
imported, which saves its import each round and leaves nothing in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import (
    pull_task_input,
    push_message,
    push_task_output,
)

from feat_fed import __version__
from feat_fed.config import SiteConfig
from feat_fed.errors import FeatFedError, ProtocolError, StorageError
from feat_fed.inflating import inflate_within
from feat_fed.parts import PartFolder, share_parts
from feat_fed.privacy.accounting import preload_accounting
from feat_fed.protocol import Assignment, FailureCode, Report
from feat_fed.tasks import TakenTask, in_child, taken_tasks, task_client
from feat_fed.train import preload
from feat_fed.wire import from_records, to_records
from feat_fed_client import READY
from feat_fed_client.app import failure, let_out, make_app, site_of_this_machine
from feat_fed_client.bounded_calls import most_message_bytes
from feat_fed_client.history import note_idle
from feat_fed_client.known_study import recall_study
from feat_fed_client.last_door import FAILED, DoorError
from feat_fed_client.polls import pull_promptly
from feat_fed_client.site_audit import PrivacyCost, SiteAudit
from feat_fed_client.supervision import Death, Patience, Witness, supervised
from feat_fed_client.trust import MAX_BUNDLE_BYTES, own_bundle, trusted_bundles

log = logging.getLogger(__name__)

Refusal = Literal["bundle", "size", "task"]

REFUSALS: dict[Refusal, str] = {
    "bundle": "the site has not approved this application bundle",
    "size": "the site takes no application bundle of this size",
    "task": "the site runs no task of this kind",
}

_TOLD: dict[Refusal, str] = {
    "bundle": "refused a task: its bundle %s is not approved here; `feat-fed site trust` shows it",
    "size": "refused a task: its bundle %s is too large to be one of feat-fed",
    "task": "refused a task: not of a kind that runs here (its bundle is %s)",
}

_REPORT, _ERROR = b"report", b"error"


@dataclass(frozen=True)
class Executor:
    """Take tasks from one SuperNode on loopback and answer each in a child.

    Parameters
    ----------
    runtime_address
        HOST:PORT of the SuperNode's runtime API.
    secret
        Shared with that SuperNode, so that no other local process can take its tasks.
    site_of
        Reads the site's configuration, anew for each message.
    """

    runtime_address: str
    secret: bytes
    site_of: Callable[[object], SiteConfig]
    patience: Patience | None = None

    def run(self) -> None:
        """Answer tasks until one is lost: the SuperNode waits for its answer, and must end, too."""
        self._preload_study()
        log.info(READY)
        for task in taken_tasks(self.runtime_address, self.secret, TaskType):
            # It holds the message while a child of its own works on it.
            if lost := in_child(lambda: self._answer(task)):  # noqa: B023
                log.error("a task is lost: the process that held it ended with %s", lost)
                return
            self._preload_study()

    def _preload_study(self) -> None:
        """Import what the study that was last asked for takes, once and not in each child."""
        try:
            known = recall_study(self.site_of(None).store)
            if known is not None and known.study.privacy.patient is not None:
                preload_accounting()
        except (FeatFedError, ImportError, OSError):  # the next task fails of it, and says so
            log.warning("nothing was imported beforehand", exc_info=True)

    def _answer(self, task: TakenTask) -> None:
        """Pull one message and see to it that a reply goes out."""
        client = task_client(self.runtime_address, task.token)
        share_parts(client, PartFolder.of_environment())
        # A large message takes minutes to come: the SuperNode gives its task away as it begins.
        with _heartbeat(client):
            message, context, _, fab = pull_task_input(client)
        reply = self._recorded(client, task.kind, fab, message, context)
        with _heartbeat(client):
            push_message(client, reply, context)
        push_task_output(client, context, SubStatus.COMPLETED, "")
        client.close()

    def _recorded(
        self,
        client: RuntimeHttpClient,
        task_type: str,
        fab: Fab,
        message: Message,
        context: Context,
    ) -> Message:
        """Make the reply, and see to it that the audit log has it first."""
        try:
            site = self.site_of(None)
            audit, refused = SiteAudit(site), refusal(task_type, fab, trusted_bundles(site))
            audit.task(task_type, fab, refused)
            cost = None
            if refused:
                log.error(_TOLD[refused], hashlib.sha256(fab.content).hexdigest())
                reply = Message(Error(ErrorCode.INVALID_FAB, REFUSALS[refused]), reply_to=message)
            else:
                reply, cost = self._assigned(client, audit, message, context)
            audit.leaving(reply, cost)
            return reply
        except FeatFedError as error:
            reference = secrets.token_hex(4)
            log.exception("[%s] nothing is sent but that it failed", reference)
            code: FailureCode = "storage" if isinstance(error, StorageError) else "config"
            return self._failed(message, code, reference)

    def _assigned(
        self, client: RuntimeHttpClient, audit: SiteAudit, message: Message, context: Context
    ) -> tuple[Message, PrivacyCost | None]:
        """Return the reply as it may leave, and what it costs."""
        try:
            assignment, buckets = from_records(message.content, Assignment)
        except (ProtocolError, ValueError):  # an error of the server's making has no content
            log.exception("a message that is no assignment")
            audit.no_assignment()
            error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED)
            return Message(error, reply_to=message), None
        audit.assignment(assignment, buckets)
        return let_out(lambda: self._work(client, message, context), message, audit.site)

    def _work(self, client: RuntimeHttpClient, message: Message, context: Context) -> Message:
        """Let the application reply in a child, again where it dies; at last in its place.

        Children send their replies here and not to the SuperNode, which waits for ever for the
        rest of one that was cut off.
        """
        arrived_at = time.monotonic()
        outcome = supervised(
            lambda witness: _parts(self._reply(message, context, witness, arrived_at)),
            patience=self.patience,
            meanwhile=lambda: _heartbeat(client),
        )
        if not isinstance(outcome, Death):
            return _joined(outcome, message)
        reference = secrets.token_hex(4)
        log.error("[%s] given up: %s", reference, outcome.how)
        return self._failed(message, outcome.code, reference)

    def _failed(self, message: Message, code: FailureCode, reference: str) -> Message:
        """Reply with a code; with a fixed phrase where even a report cannot be made."""
        try:
            return failure(message, self.site_of(None), code, reference)
        except (FeatFedError, ValueError):
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=message)

    def _reply(
        self, message: Message, context: Context, witness: Witness, arrived_at: float
    ) -> Message:
        app = make_app(self.site_of, witness=witness, arrived_at=arrived_at)
        try:
            return app(message=message, context=context)
        except Exception:
            # The text may name a file or a patient, so a fixed phrase goes out instead.
            log.exception("the application failed")
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=message)


def refusal(task_type: str, fab: Fab, trusted: Set[str]) -> Refusal | None:
    """Return why a task is not run, or None. Only what was received counts, not its name."""
    if task_type != TaskType.CLIENT_APP.value:
        return "task"
    if len(fab.content) > MAX_BUNDLE_BYTES:
        return "size"
    if hashlib.sha256(fab.content).hexdigest() not in trusted:
        return "bundle"
    return None


@contextlib.contextmanager
def _heartbeat(client: RuntimeHttpClient) -> Iterator[None]:
    """Tell the SuperNode that the task is being worked on: a thread, so none while forking."""
    sender = HeartbeatSender(make_task_heartbeat_fn_http(client))
    sender.start()
    try:
        yield
    finally:
        if sender.is_running:
            sender.stop()


def _parts(reply: Message) -> list[bytes]:
    """Return a reply as bytes: a report and its buckets, or an error's code and phrase."""
    if reply.has_error():
        return [_ERROR, str(reply.error.code).encode(), (reply.error.reason or "").encode()]
    report, buckets = from_records(reply.content, Report)
    return [_REPORT, report.model_dump_json().encode(), *buckets]


def _joined(parts: Sequence[bytes], message: Message) -> Message:
    """Make the message of what :func:`_parts` returned in a child.

    Raises
    ------
    DoorError
        If it is neither an error nor a report of the protocol's form.
    """
    try:
        kind, head, *rest = parts
        if kind == _ERROR:
            return Message(Error(int(head), rest[0].decode()), reply_to=message)
        report = Report.model_validate_json(head)
    except (ValueError, IndexError):
        raise DoorError("the trainer's reply is no report of the protocol") from None
    report = report.model_copy(update={"version": __version__})
    return Message(to_records(report, rest), reply_to=message)


def main(arguments: Sequence[str]) -> None:
    """Run as ``python -m feat_fed_client HOST:PORT SECRET_FILE``."""
    address, secret_file = arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line each poll
    site = site_of_this_machine()
    note_idle(site.store)
    preload()
    own_bundle()  # once, and not in each child
    inflatable_utils.pull_objects = pull_promptly
    inflate_within(most_message_bytes, caller=inflatable_utils)
    Executor(address, Path(secret_file).read_bytes(), site_of_this_machine).run()
    logging.shutdown()
    os._exit(1)  # at once: at an orderly end, libraries that were preloaded fill the log
