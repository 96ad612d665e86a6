"""The site's executor: the only thing that runs work for Flower's SuperNode.

Flower's own executor unpacks and runs whatever bundle the server sends. This one stands
in its place: it takes every task from the SuperNode (one left alone would block the
node), refuses all but a ClientApp of an approved bundle, never unpacks that bundle, and
calls the installed :mod:`feat_fed_client.app`. Each message is handled in a child that
is forked from this process after torch was imported, which saves its import each round
and leaves nothing in memory.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.app.error import Error
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import (
    pull_task_input,
    push_message,
    push_task_output,
)

from feat_fed.child import end_with_parent
from feat_fed.config import SiteConfig, load_site
from feat_fed.train import preload
from feat_fed.wire import bundle
from feat_fed_client import SITE_CONFIG
from feat_fed_client.app import app

log = logging.getLogger(__name__)

_POLL_SEC = 0.2
_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})

REFUSED_BUNDLE = "the site has not approved this application bundle"
REFUSED_TASK = "the site runs no task of this kind"
FAILED = "the site could not answer; its own log says why"


@dataclass(frozen=True)
class Executor:
    """Take tasks from one SuperNode on loopback and answer each in a child.

    Parameters
    ----------
    runtime_address
        HOST:PORT of the SuperNode's runtime API.
    secret
        Shared with that SuperNode, so that no other local process can take its tasks.
    trusted
        SHA-256 of the bundles that may run.
    app
        The installed application.
    """

    runtime_address: str
    secret: bytes
    trusted: frozenset[str]
    app: ClientApp

    def run(self) -> None:
        """Answer tasks until the process is ended."""
        client = self._client(
            SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=_ACQUIRE),
            retry=False,
        )
        request = AcquireTaskRequest(supported_task_types=[each.value for each in TaskType])
        # Objects made so far stay out of collections, so children share their memory.
        gc.freeze()
        while True:
            # The SuperNode may be starting, or starting again.
            with contextlib.suppress(httpx.TransportError):
                answer = client.AcquireTask(request)
                if answer.HasField("task") and answer.token:
                    self._in_child(answer.task.type, answer.token)
            time.sleep(_POLL_SEC)

    def _in_child(self, task_type: str, token: str) -> None:
        """Handle a task in a child that holds the message while its own child works on it."""
        status = _forked(lambda: self._answer(task_type, token))
        if status:
            log.error("a task could not be answered: its process ended with %s", status)

    def _answer(self, task_type: str, token: str) -> None:
        """Pull one message and see to it that a reply goes out."""
        client = self._task_client(token)
        message, context, _, fab = pull_task_input(client)
        if refusal := self.refusal(task_type, fab):
            log.error("refused a task: %s", refusal)
            push_message(
                client, Message(Error(ErrorCode.INVALID_FAB, refusal), reply_to=message), context
            )
        else:
            self._work(client, token, message, context)
        push_task_output(client, context, SubStatus.COMPLETED, "")
        client.close()

    def _work(
        self, client: RuntimeHttpClient, token: str, message: Message, context: Context
    ) -> None:
        """Let the application reply in a child; reply in its place if that one is killed."""

        def work() -> None:
            push_message(self._task_client(token), self._reply(message, context), context)

        # The heartbeat is a thread, so it starts after the fork, in the process that waits.
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        status = _forked(work, meanwhile=heartbeat.start)
        heartbeat.stop()
        if status:
            log.error("the process that trained ended with %s", status)
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=message)
            push_message(client, reply, context)

    def refusal(self, task_type: str, fab: Fab) -> str | None:
        """Return why a task is not run, or None. Only what was received counts, not its name."""
        if task_type != TaskType.CLIENT_APP.value:
            return REFUSED_TASK
        if hashlib.sha256(fab.content).hexdigest() not in self.trusted:
            return REFUSED_BUNDLE
        return None

    def _reply(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message=message, context=context)
        except Exception:
            # The text may name a file or a patient, so a fixed phrase goes out instead.
            log.exception("the application failed")
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, FAILED), reply_to=message)

    def _task_client(self, token: str) -> RuntimeHttpClient:
        return self._client(RuntimeTokenHttpInterceptor(token))

    def _client(
        self,
        authentication: RuntimeTokenHttpInterceptor | SuperExecAuthHttpInterceptor,
        *,
        retry: bool = True,
    ) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.runtime_address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                authentication,
            ],
            retry_invoker=make_simple_http_retry_invoker() if retry else None,
        )


def trusted_bundles(site: SiteConfig) -> frozenset[str]:
    """Return the hashes that the site approved, or that of this installation's own bundle."""
    return frozenset(site.trusted_bundles or (bundle()[1],))


def _forked(work: Callable[[], None], meanwhile: Callable[[], None] | None = None) -> str:
    """Do ``work`` in a child and wait; return how it failed, or an empty text.

    The child ends with this process. ``meanwhile`` runs here once the child is there.
    """
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            end_with_parent(parent_pid)
            work()
            status = 0
        except BaseException:
            log.exception("the work failed")
        finally:
            logging.shutdown()
            os._exit(status)
    if meanwhile:
        meanwhile()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if code == 0 else f"signal {-code}" if code < 0 else f"exit status {code}"


def main(arguments: Sequence[str]) -> None:
    """Run as ``python -m feat_fed_client HOST:PORT SECRET_FILE``."""
    address, secret_file = arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line each poll
    trusted = trusted_bundles(load_site(Path(os.environ[SITE_CONFIG])))
    preload()
    Executor(address, Path(secret_file).read_bytes(), trusted, app).run()
