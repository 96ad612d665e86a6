"""A study's server side, from its start to its last round, whatever dies in between."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import ChildError, FederationError, RunError
from feat_fed.parts import PartFolder
from feat_fed.processes import ChildGroup, require_free, split_address
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed_server.certificates import TlsFiles
from feat_fed_server.errand import Errand, StudyErrand
from feat_fed_server.evaluator_child import EvaluatorChild
from feat_fed_server.membership import Federation, Membership
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.study_processes import FaultError, StudyProcesses

_LOOK_SEC = 0.25
_TELL_AGAIN_SEC = 60.0
_DOOR = re.compile(r" feat_fed_server\.(?:door|gate|join_desk): (.+)")

_MAX_FAULTS = 5
"""In a row, without a round that was completed in between."""
_PAUSE_SEC = 1.0


@dataclass(frozen=True)
class StudyLauncher:
    """Run a study's server side until its last round.

    A process that dies or hangs is started again and the study goes on at the round that was
    under way; an error of the study itself ends it.

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
    errand
        What is done there; None: the study's rounds.
    """

    store: RunStore
    listen: str
    tls: TlsFiles
    sites: Mapping[bytes, str]
    tell: Callable[[str], None]
    federation: Federation | None = None
    watch: Callable[[StudyLive | None], None] = lambda _: None
    errand: Errand | None = None

    @property
    def _errand(self) -> Errand:
        return self.errand or StudyErrand(self.store)

    def run(self) -> None:
        """Start what is needed, wait for the study's end, stop everything.

        Raises
        ------
        ConfigError
            If the address cannot be listened on or a certificate is missing.
        FederationError
            If the study fails; the reason is the ServerApp's.
        ChildError
            If processes die again and again.
        RunError
            If the run's folder cannot be written.
        StorageError
            If the audit log cannot.
        """
        self.tls.require()
        require_free(*split_address(self.listen))
        members = Membership(
            self.sites,
            roster=self.store.roster,
            federation=self.federation,
            tell=self.tell,
            audit=RunAudit(self.store),
        )
        self.store.flower.mkdir(exist_ok=True)
        secret = self.store.flower / "executor.secret"
        write_bytes_atomically(secret, secrets.token_bytes(32), mode=0o600)
        if self._errand.name != "study":  # there is nothing new to evaluate
            self._serve(members, secret)
            return
        with EvaluatorChild(self.store, self.tell) as evaluator:
            self._serve(members, secret)
            evaluator.finish()

    def _serve(self, members: Membership, secret: Path) -> None:
        """Start the processes, do the errand, stop them."""
        with PartFolder(self.store.parts) as parts, ChildGroup() as children:
            processes = StudyProcesses(
                children,
                self.store,
                listen=self.listen,
                tls=self.tls,
                members=members,
                secret=secret,
                parts=parts,
                errand=self._errand,
            )
            self._survive(processes, members)
            processes.close()

    def _survive(self, processes: StudyProcesses, members: Membership) -> None:
        """Live through one life of the processes after the other."""
        faults, progress = 0, -1
        while True:
            try:
                self._live(processes, members)
            except FaultError as fault:
                before, progress = progress, self._errand.progress()
                faults = faults + 1 if progress == before else 1
                if faults > _MAX_FAULTS:
                    raise ChildError(
                        f"{fault}\nit was the {faults}th time in a row {self._errand.kept()}: "
                        "find out why, then give the same command"
                    ) from fault
                RunAudit(self.store).restarted(fault.process)
                reason = str(fault).partition("\n")[0]
                goes_on = f"to go on with {self._errand.next_step()}"
                self.tell(f"{reason}; starting it again, {goes_on}")
                time.sleep(_PAUSE_SEC * (faults - 1))
            else:
                return

    def _live(self, processes: StudyProcesses, members: Membership) -> None:
        """Start what is not there and wait for the study's end, or for a fault."""
        self._forget_what_was()
        processes.start()
        whom = ", ".join(members.names) or "hospitals that ask to join"
        self.tell(f"listening on {self.listen} for {whom}")
        door = _Door(self.tell)
        while (completed := processes.look()) is None:
            self.watch(StudyLive.read(self.store.live))
            door.tell_news(processes.news())
            time.sleep(_LOOK_SEC)
        self.watch(StudyLive.read(self.store.live))
        if not completed:
            self.tell(f"the ServerApp's log is {self.store.logs / 'serverapp.log'}")
            raise FederationError(self._errand.message() or "the ServerApp ended")

    def _forget_what_was(self) -> None:
        """Remove an earlier ServerApp's words: they must not be taken for the next one's."""
        try:
            self.store.live.unlink(missing_ok=True)
            self._errand.begin()
        except OSError as error:
            raise RunError(
                f"{self.store.root} cannot be written: {error}; mend that (is the disk full?), "
                "then give the same command to go on"
            ) from error


class _Door:
    """What the door says in the SuperLink's log; the same line once a minute."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told_at: dict[str, float] = {}

    def tell_news(self, lines: list[str]) -> None:
        for line in lines:
            found = _DOOR.search(line)
            told = found[1] if found else ""
            if told and time.monotonic() > self._told_at.get(told, 0) + _TELL_AGAIN_SEC:
                self._told_at[told] = time.monotonic()
                self._tell(told)
