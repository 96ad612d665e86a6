"""Flower's SuperNode and our executor as children of ``feat-fed client``."""

from __future__ import annotations

import contextlib
import fcntl
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import ServerLinkConfig, SiteConfig
from feat_fed.errors import ChildError, ConfigError, FeatFedError, RefusedError, StorageError
from feat_fed.parts import PartFolder
from feat_fed.processes import Child, ChildGroup, free_port, split_address
from feat_fed.protocol import PENDING_KEY, REVOKED_KEY, UNKNOWN_KEY, WRONG_CLOCK
from feat_fed.wire import ALLOCATOR, flower_environment
from feat_fed_client import CLIENT_LOCK, READY, SITE_CONFIG
from feat_fed_client.connection import Connection
from feat_fed_client.keys import check_site_key
from feat_fed_client.lines import Lines
from feat_fed_client.reach import check_ca_certificate, greet
from feat_fed_client.site_audit import SiteAudit

_RESTART_SEC = 5.0
_APPROVAL_SEC = 10.0
_PAUSE_SEC = 1.0
_LOOK_SEC = 15.0
_LOOK_AGAIN_SEC = 1.0
_LOCK_TRIES = 10
_LOCK_PAUSE_SEC = 0.1
_MAX_ENDS_IN_A_ROW = 5
_NODE_ID = re.compile(r"SuperNode ID: (\d+)")
_TROUBLE = "Connection attempt failed"
_MESSAGE_LOST = re.compile(r"Failed to (?:receive|send) message")

# In the SuperNode's last words: the server's door, and Flower 1.41.
_UNKNOWN_KEY = f"code: {UNKNOWN_KEY}"
_PENDING_KEY = f"code: {PENDING_KEY}"
_REVOKED_KEY = f"code: {REVOKED_KEY}"
_WRONG_CLOCK = f"code: {WRONG_CLOCK}"
_KEY_IN_USE = "code: 2004"


class SiteLauncher:
    """Run a site's side of a study until it is told to stop.

    A SuperNode that ends is started again, and so is an executor: a server that is away for a
    while must not end a site, nor a process that was killed. A SuperNode waits for ever for the
    answer to a task that its executor lost, so it goes with that one; an executor that holds a
    message of a SuperNode goes with that one, too. A server that was started again knows none of
    the nodes of before, which is asked, for a SuperNode by itself looks only every twenty seconds.
    Only a refusal ends the site, or a process that never comes to work.

    Parameters
    ----------
    site_file
        The site's YAML file, which the executor reads itself.
    tell
        Called with a line for the screen.
    watch
        Called twice a second while the site waits and works.
    """

    def __init__(
        self,
        site_file: Path,
        site: SiteConfig,
        *,
        tell: Callable[[str], None],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        self._site_file = site_file.resolve()
        self._site = site
        self._link = check_link(site)
        self._tell = tell
        self._watch = watch
        self.logs = site.store / "logs"
        self._state = site.store / "flower"
        self._parts = PartFolder(site.store / "parts")
        self._secret = self._state / "executor.secret"
        self._connection = Connection(self._state, self._link)
        self._audit = SiteAudit(site)
        self._lines = Lines(tell, f"connected to {self._link.address}; waiting for the study")
        self._ends_in_a_row = 0
        self._node_id: int | None = None
        self._noted_node_id: int | None = None
        self._was_ready = False
        self._idle_executors = 0
        self._look_at = 0.0
        self._server_was_away = self._lost_a_message = False

    def run(self) -> None:
        """Connect and answer the server; returns only by an exception.

        Raises
        ------
        ConfigError
            If another client runs with this site's store.
        RefusedError
            If the server turns this site away, or is not the study's.
        ChildError
            If the SuperNode or the executor cannot be started.
        StorageError
            If the audit log cannot be written.
        """
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._site.store / CLIENT_LOCK).open("w") as lock:
            if not _taken(lock):
                raise ConfigError(
                    f"store: another client is running with {self._site.store}; stop it first"
                )
            self._audit.client_started(self._link)
            with self._noted_end():
                self._run()

    @contextlib.contextmanager
    def _noted_end(self) -> Iterator[None]:
        cause = "stopped"
        try:
            yield
        except RefusedError:
            cause = "refused"
            raise
        except FeatFedError:
            cause = "failed"
            raise
        finally:
            with contextlib.suppress(StorageError):
                self._audit.client_stopped(cause)

    def _run(self) -> None:
        write_bytes_atomically(self._secret, secrets.token_bytes(32), mode=0o600)
        with self._parts, ChildGroup() as children:
            self._wait_for_server()
            port = free_port()
            executor = None
            while True:
                self._connection.give_up()
                node = self._start_supernode(children, port)
                executor = executor or self._start_executor(children, port)
                while not any(_has_ended(each) for each in (node, executor)):
                    time.sleep(0.5)
                    children.rotate_logs()
                    self._watch()
                    self._look_whether_ready(executor)
                    if not self._is_connected(node):
                        break
                if _has_ended(executor):
                    self._wait_after_executor(executor)
                elif _has_ended(node):
                    self._wait_after_node(node)
                if _has_ended(executor) or executor.is_at_work():
                    # What it worked on goes on from its checkpoint when it is asked for again.
                    children.end(executor)
                    executor = None
                children.end(node)

    def _is_connected(self, node: Child) -> bool:
        """Say whether the server is there; return whether the SuperNode is one of its nodes.

        The SuperNode itself waits for it without a word, and finds out late that it is back.
        """
        self._listen(node)
        if self._lost_a_message:
            # A handshake that took too long, say; the server asks again whoever connects anew.
            self._lines.trouble("a message was lost on the way; connecting anew, to be asked again")
            return False
        if time.monotonic() < self._look_at or self._node_id is None:
            return True
        self._connection.note(self._node_id)
        self._look_at = time.monotonic() + _LOOK_SEC
        with contextlib.suppress(RefusedError):
            if server_absence(self._link) is None:
                was_away, self._server_was_away = self._server_was_away, False
                if was_away and self._connection.is_forgotten(self._node_id):
                    self._lines.trouble("the server was started again; connecting anew")
                    return False
                self._lines.connected()
                self._note_connection(self._node_id)
                return True
        self._server_was_away = True
        self._look_at = time.monotonic() + _LOOK_AGAIN_SEC
        self._lines.trouble("the server is away; waiting for it to come back")
        return True

    def _note_connection(self, node_id: int) -> None:
        if node_id == self._noted_node_id:
            return
        try:
            self._audit.connected(self._link, node_id)
            self._noted_node_id = node_id
        except StorageError as error:  # the executor sends nothing as long as that is so
            self._lines.once(str(error))

    def _look_whether_ready(self, executor: Child) -> None:
        self._was_ready |= any(READY in line for line in executor.log.news())

    def _listen(self, node: Child) -> None:
        """Take note of the id that a SuperNode tells once it is connected, and of its troubles."""
        for line in node.log.news():
            if told := _NODE_ID.search(line):
                self._node_id = int(told[1])
            self._lost_a_message |= bool(_MESSAGE_LOST.search(line))
            if _TROUBLE in line:
                self._look_at, self._server_was_away = 0.0, True

    def _wait_after_executor(self, executor: Child) -> None:
        """See whether it is worth it to start it again."""
        self._look_whether_ready(executor)
        self._idle_executors = 1 if self._was_ready else self._idle_executors + 1
        if self._idle_executors > _MAX_ENDS_IN_A_ROW:
            raise ChildError(
                f"the executor has ended {self._idle_executors} times before it could work; its "
                f"log is {executor.log_file}\n{executor.tail()}"
            )
        self._tell(f"the executor has ended; starting it again (its log: {executor.log_file})")
        time.sleep(_PAUSE_SEC * self._idle_executors)

    def _wait_after_node(self, node: Child) -> None:
        """Wait until it is worth it to connect again; find out why not, if it never is."""
        last_words = node.tail(30)
        self._listen(node)
        was_connected = self._node_id is not None
        self._ends_in_a_row = 1 if was_connected else self._ends_in_a_row + 1
        if _UNKNOWN_KEY in last_words:
            raise RefusedError(
                f"the server at {self._link.address} does not know the key of "
                f"{self._site.name}: send {self._link.private_key.with_suffix('.pub')} to "
                f"the coordinator, who registers it as {self._site.name}.pub"
            )
        if _REVOKED_KEY in last_words:
            raise RefusedError(
                f"the coordinator at {self._link.address} has revoked the key of "
                f"{self._site.name}: with a new token, `feat-fed join` asks with a new key"
            )
        if _WRONG_CLOCK in last_words:
            raise RefusedError(
                "the clocks of this machine and the server differ by more than Flower allows (5 s "
                "ahead, 5 minutes behind): set this machine's clock, best by NTP"
            )
        if _PENDING_KEY in last_words:
            self._ends_in_a_row = 1
            self._lines.trouble("waiting for the coordinator to approve this site's key")
            time.sleep(_APPROVAL_SEC)
        elif _KEY_IN_USE in last_words:
            self._lines.trouble(
                "the server still holds a connection with this site's key: a client that is "
                "running elsewhere, or one that was killed (freed within a minute); trying again"
            )
        elif self._ends_in_a_row > _MAX_ENDS_IN_A_ROW:
            raise ChildError(
                f"the SuperNode has ended {self._ends_in_a_row} times without a connection; its "
                f"log is {node.log_file}\n{node.tail()}"
            )
        else:
            self._lines.trouble("the connection to the server was lost; trying again")
        time.sleep(_PAUSE_SEC if was_connected else _RESTART_SEC)
        self._wait_for_server()

    def _start_supernode(self, children: ChildGroup, port: int) -> Child:
        link, self._look_at = self._link, 0.0
        self._node_id = None
        self._server_was_away = self._lost_a_message = False
        self._parts.empty()
        return children.start(
            "the SuperNode",
            [
                *(sys.executable, "-m", "feat_fed_client.bounded_node"),
                *("--superlink", link.address),
                *("--root-certificates", str(link.ca_certificate)),
                *("--auth-supernode-private-key", str(link.private_key)),
                *("--isolation", "process"),
                *("--superexec-auth-secret-file", str(self._secret)),
                *("--host", "127.0.0.1"),
                *("--port", str(port)),
            ],
            log_file=self.logs / "supernode.log",
            env={
                **flower_environment(self._state / "supernode"),
                **ALLOCATOR,
                **self._parts.environment,
            },
        )

    def _start_executor(self, children: ChildGroup, port: int) -> Child:
        self._was_ready = False
        return children.start(
            "the executor",
            [
                *(sys.executable, "-m", "feat_fed_client"),
                *(f"127.0.0.1:{port}", str(self._secret)),
            ],
            log_file=self.logs / "executor.log",
            env={
                **flower_environment(self._state / "executor"),
                **ALLOCATOR,
                **self._parts.environment,
                SITE_CONFIG: str(self._site_file),
            },
        )

    def _wait_for_server(self) -> None:
        while reason := server_absence(self._link):
            self._lines.trouble(f"waiting for the server at {self._link.address} ({reason})")
            time.sleep(1.0)


def check_link(site: SiteConfig) -> ServerLinkConfig:
    """Return how the server is reached.

    Raises
    ------
    ConfigError
        Unless the site's file says it and the key and the CA's certificate can be used.
    """
    link = site.server
    if link is None:
        raise ConfigError("server: this field is required to take part in a study")
    check_site_key(link.private_key)
    check_ca_certificate(link)
    split_address(link.address)
    return link


def server_absence(link: ServerLinkConfig) -> str | None:
    """Return why the study's server cannot be reached, or None if it is there.

    Raises
    ------
    RefusedError
        If something else answers: no TLS, another CA, or another name.
    """
    try:
        greet(link)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _taken(lock: TextIO) -> bool:
    """Take the lock; ``feat-fed check`` and ``site status`` hold it for an instant to look."""
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_LOCK_PAUSE_SEC)
    return False


def _has_ended(child: Child) -> bool:
    return child.process.poll() is not None
