"""The server side's processes: what has died or hangs is started again with what stands on it.

The SuperLink holds runs, messages and registered sites in memory. On it stands the executor, which
forks the ServerApp. A ServerApp that has died needs a new run of Flower's; an executor takes its
ServerApp with it, a SuperLink takes all. What a study needs to go on is in the
run's folder and at the sites.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from feat_fed.errors import ChildError
from feat_fed.parts import PartFolder
from feat_fed.processes import (
    Child,
    ChildGroup,
    describe_exit,
    free_port,
    split_address,
    wait_for_port,
)
from feat_fed.report.run_store import RunStore
from feat_fed.wire import ALLOCATOR, flower_environment
from feat_fed_server import RUN_ERRAND, RUN_FOLDER
from feat_fed_server.certificates import TlsFiles
from feat_fed_server.errand import Errand
from feat_fed_server.membership import Membership
from feat_fed_server.run_audit import Process, RunAudit
from feat_fed_server.serverapp_life import LifeWatch
from feat_fed_server.superlink_client import RunEnd, SuperLinkClient

_QUESTION_EVERY_SEC = 1.0
_UNANSWERED_SEC = 20.0
"""Of the SuperLink, while it may be busy with large weights."""


class FaultError(Exception):
    """A process has ended that should not, or hangs; what it was, how, and where its log is.

    Parameters
    ----------
    process
        Which one, as the audit log names it.
    """

    def __init__(self, text: str, process: Process) -> None:
        super().__init__(text)
        self.process = process


class StudyProcesses:
    """SuperLink, executor and ServerApp of one study.

    Parameters
    ----------
    children
        Where they are started, and ended at last.
    store
        The run's folder.
    listen
        HOST:PORT that hospitals reach.
    members
        Who may take part.
    secret
        File of the secret between SuperLink and executor.
    parts
        Shared by SuperLink and ServerApp.
    errand
        What the ServerApp does.
    """

    def __init__(
        self,
        children: ChildGroup,
        store: RunStore,
        *,
        listen: str,
        tls: TlsFiles,
        members: Membership,
        secret: Path,
        parts: PartFolder,
        errand: Errand,
    ) -> None:
        self._children = children
        self._store = store
        self._listen = listen
        self._host, self._port = split_address(listen)
        self._tls = tls
        self._members = members
        self._secret = secret
        self._parts = parts
        self._errand = errand
        self._superlink: Child | None = None
        self._executor: Child | None = None
        self._link: SuperLinkClient | None = None
        self._control_port = 0
        self._run_id: int | None = None
        self._life = LifeWatch(store)
        self._asked_at = self._answered_at = 0.0

    def start(self) -> None:
        """Start what is not there.

        Raises
        ------
        FaultError
            If one of them ends, or does not answer, as it starts.
        """
        with self._faults():
            if self._link is None:
                self._link = self._start_superlink()
            self._executor = self._executor or self._start_executor()
            self._run_id = self._link.start_run()
        self._life = LifeWatch(self._store)
        self._answered_at = time.monotonic()

    def news(self) -> list[str]:
        """Return the lines that the SuperLink wrote since the last call."""
        return self._superlink.log.news() if self._superlink else []

    def look(self) -> bool | None:
        """Return None while the errand goes on, then whether it is complete.

        Raises
        ------
        FaultError
            If a process has ended or hangs; it and what stands on it are gone then.
        """
        self._children.rotate_logs()
        self._require(self._superlink, "the SuperLink", self._end_all)
        self._require(self._executor, "the ServerApp's executor", self._end_executor)
        end = self._ask()
        state = self._life.look()
        if end is None and state is None:
            if self._link:
                with self._faults():
                    self._members.follow(self._link)
            return None
        outcome = self._errand.outcome()
        if (state == "ended" or end) and outcome is not None:
            return outcome
        if end:
            reason = f"has ended ({end.details or 'without a word'})"
        else:
            reason = "was killed or has crashed" if state == "ended" else str(state)
        log_file = self._store.logs / "serverapp.log"
        self._end_run() if self._life.has_started else self._end_executor()
        raise FaultError(f"the ServerApp {reason}; its log is {log_file}", "serverapp")

    def close(self) -> None:
        """Close the connection; the group ends the processes."""
        if self._link:
            self._link.close()

    def _ask(self) -> RunEnd | None:
        """Ask the SuperLink how the run stands, now and then."""
        now = time.monotonic()
        if self._link is None or self._run_id is None or now < self._asked_at + _QUESTION_EVERY_SEC:
            return None
        self._asked_at = now
        try:
            end = self._link.end_of(self._run_id)
        except ChildError as error:
            self._require(self._superlink, "the SuperLink", self._end_all)
            silent_sec = time.monotonic() - self._answered_at
            if silent_sec < _UNANSWERED_SEC:
                return None
            self._end_all()
            raise FaultError(f"{error} (for {silent_sec:.0f} s)", "superlink") from error
        self._answered_at = time.monotonic()
        return end

    def _require(self, child: Child | None, name: str, give_up: Callable[[], None]) -> None:
        code = child.process.poll() if child else None
        if child is not None and code is not None:
            process: Process = "executor" if child is self._executor else "superlink"
            give_up()
            raise FaultError(
                f"{name} has ended ({describe_exit(code)}); its log is {child.log_file}",
                process,
            )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except ChildError as error:
            executor = self._executor is not None and self._executor.process.poll() is not None
            process: Process = "executor" if executor else "superlink"
            self._end_all()
            raise FaultError(str(error), process) from error

    def _end_run(self) -> None:
        """End the ServerApp; the SuperLink forgets its run, and the sites its messages."""
        if self._executor:
            self._executor.kill_family()
        if self._link and self._run_id is not None:
            with contextlib.suppress(ChildError):  # it is found out at the next look
                self._link.stop_run(self._run_id)
        self._run_id = None

    def _end_executor(self) -> None:
        self._end_run()
        if self._executor:
            self._children.end(self._executor, at_once=True)
            self._executor = None

    def _end_all(self) -> None:
        self.close()
        self._link = None
        self._end_executor()  # the next SuperLink has another port
        if self._superlink:
            self._children.end(self._superlink, at_once=True)
            self._superlink = None

    def _start_superlink(self) -> SuperLinkClient:
        audit = RunAudit(self._store)
        audit.server_started(self._listen, self._tls.certificate, self._members.names)
        audit.registered(self._members.names_by_key)
        self._control_port = free_port()
        self._parts.empty()
        self._superlink = self._children.start(
            "the SuperLink",
            [
                *(sys.executable, "-m", "feat_fed_server.superlink"),
                *("--host", self._host),
                *("--port", str(self._port)),
                *("--certificate", str(self._tls.certificate)),
                *("--key", str(self._tls.key)),
                *("--control-port", str(self._control_port)),
                *("--secret", str(self._secret)),
                *self._members.superlink_arguments(),
                *("--links", str(self._store.links)),
                *("--checkpoints", str(self._store.checkpoint(0).parent)),
            ],
            log_file=self._store.logs / "superlink.log",
            env={
                **flower_environment(self._store.flower / "superlink"),
                **ALLOCATOR,
                **self._parts.environment,
            },
        )
        self._executor = self._start_executor()  # both take seconds to begin
        wait_for_port("127.0.0.1", self._control_port, self._children)
        link = SuperLinkClient(self._control_port)
        self._members.register(link)  # which opens the door
        wait_for_port(_reachable(self._host), self._port, self._children)
        return link

    def _start_executor(self) -> Child:
        return self._children.start(
            "the ServerApp's executor",
            [
                *(sys.executable, "-m", "feat_fed_server"),
                *(f"127.0.0.1:{self._control_port}", str(self._secret)),
            ],
            log_file=self._store.logs / "executor.log",
            env={
                **flower_environment(self._store.flower / "executor"),
                **ALLOCATOR,
                **self._parts.environment,
                RUN_FOLDER: str(self._store.root.resolve()),
                RUN_ERRAND: self._errand.name,
            },
        )


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
