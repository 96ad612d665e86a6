"""The study's processes: SuperLink, Flower's executor for the ServerApp, and who comes in."""

from __future__ import annotations

import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import FederationError
from feat_fed.log_file import ChildLog
from feat_fed.processes import (
    Child,
    ChildGroup,
    free_port,
    require_free,
    split_address,
    wait_for_port,
)
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.wire import flower_environment
from feat_fed_server import RUN_FOLDER
from feat_fed_server.certificates import TlsFiles
from feat_fed_server.membership import Federation, Membership
from feat_fed_server.superlink_client import SuperLinkClient

_POLL_SEC = 0.25
_POLLS_PER_QUESTION = 4
_DYING_SEC = 1.0
_TELL_AGAIN_SEC = 60.0
_DOOR = re.compile(r" feat_fed_server\.(?:door|gate|join_desk): (.+)")


@dataclass(frozen=True)
class StudyLauncher:
    """Run a study's server side until its last round.

    Parameters
    ----------
    store
        The run's folder.
    listen
        HOST:PORT that hospitals reach; the only socket that is not on loopback.
    tls
        The federation's certificates.
    sites
        Sites that may take part: name by public key.
    federation
        Where to look for sites that are admitted or revoked meanwhile; None: nowhere.
    tell
        Called with a line for the screen.
    watch
        Called with the study's live state, some times a second.
    """

    store: RunStore
    listen: str
    tls: TlsFiles
    sites: Mapping[bytes, str]
    tell: Callable[[str], None]
    federation: Federation | None = None
    watch: Callable[[StudyLive | None], None] = lambda _: None

    def run(self) -> None:
        """Start what is needed, wait for the study's end, stop everything.

        Raises
        ------
        ConfigError
            If the address cannot be listened on or a certificate is missing.
        FederationError
            If the study fails; the reason is the ServerApp's.
        ChildError
            If a process ends on its own.
        """
        host, port = split_address(self.listen)
        self.tls.require()
        require_free(host, port)
        members = Membership(
            self.sites, roster=self.store.roster, federation=self.federation, tell=self.tell
        )
        self.store.live.unlink(missing_ok=True)
        state = self.store.flower
        state.mkdir(exist_ok=True)
        secret = state / "executor.secret"
        write_bytes_atomically(secret, secrets.token_bytes(32), mode=0o600)
        with ChildGroup() as children:
            control_port = free_port()
            superlink = self._start_superlink(children, host, port, control_port, secret)
            wait_for_port("127.0.0.1", control_port, children)
            link = SuperLinkClient(control_port)
            members.register(link)  # which opens the door
            wait_for_port(_reachable(host), port, children)
            self._start_executor(children, control_port, secret)
            run_id = link.start_run()
            whom = ", ".join(members.names) or "hospitals that ask to join"
            self.tell(f"listening on {self.listen} for {whom}")
            self._follow(children, link, run_id, members, _Door(superlink.log, self.tell))
            link.close()

    def _follow(
        self,
        children: ChildGroup,
        link: SuperLinkClient,
        run_id: int,
        members: Membership,
        door: _Door,
    ) -> None:
        while (completed := self._finished(children, link, run_id)) is None:
            for _ in range(_POLLS_PER_QUESTION):
                children.check()
                self.watch(StudyLive.read(self.store.live))
                door.tell_news()
                members.follow(link)
                time.sleep(_POLL_SEC)
        self.watch(StudyLive.read(self.store.live))
        if not completed:
            self.tell(f"the ServerApp's log is {self.store.logs / 'serverapp.log'}")
            raise FederationError(self.store.summary().message or "the ServerApp ended")

    def _finished(self, children: ChildGroup, link: SuperLinkClient, run_id: int) -> bool | None:
        try:
            return link.finished(run_id)
        except FederationError:
            time.sleep(_DYING_SEC)
            children.check()  # says more, if the SuperLink has ended
            raise

    def _start_superlink(
        self, children: ChildGroup, host: str, port: int, control_port: int, secret: Path
    ) -> Child:
        return children.start(
            "the SuperLink",
            [
                *(sys.executable, "-m", "feat_fed_server.superlink"),
                *("--host", host),
                *("--port", str(port)),
                *("--certificate", str(self.tls.certificate)),
                *("--key", str(self.tls.key)),
                *("--control-port", str(control_port)),
                *("--secret", str(secret)),
                *("--sites", str(len(self.sites))),
                *("--roster", str(self.store.roster)),
                *("--links", str(self.store.links)),
                *(("--federation", str(self.federation.file)) if self.federation else ()),
            ],
            log_file=self.store.logs / "superlink.log",
            env=flower_environment(self.store.flower / "superlink"),
        )

    def _start_executor(self, children: ChildGroup, control_port: int, secret: Path) -> None:
        command = "from flwr.supercore.cli import flower_superexec; flower_superexec()"
        children.start(
            "the ServerApp's executor",
            [
                *(sys.executable, "-c", command),
                "--insecure",
                *("--runtime-api-address", f"127.0.0.1:{control_port}"),
                *("--superexec-auth-secret-file", str(secret)),
            ],
            log_file=self.store.logs / "superexec.log",
            env={
                **flower_environment(self.store.flower / "executor"),
                "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
                RUN_FOLDER: str(self.store.root.resolve()),
            },
        )


class _Door:
    """What the door says in the SuperLink's log; the same line once a minute."""

    def __init__(self, log: ChildLog, tell: Callable[[str], None]) -> None:
        self._log = log
        self._tell = tell
        self._told_at: dict[str, float] = {}

    def tell_news(self) -> None:
        for line in self._log.news():
            found = _DOOR.search(line)
            told = found[1] if found else ""
            if told and time.monotonic() > self._told_at.get(told, 0) + _TELL_AGAIN_SEC:
                self._told_at[told] = time.monotonic()
                self._tell(told)


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
