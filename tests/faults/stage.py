"""A consortium of real processes that can be watched, broken and mended: a server, two sites."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
import yaml
from pydantic import ValidationError

from faults.link import Link
from feat_fed.audit import FOLDER, lines
from feat_fed.processes import free_port
from feat_fed.report.live import SiteLive, StudyLive
from feat_fed.report.records import RunSummary
from system.consortium import Consortium
from system.study_runs import TINY, Command
from waiting import nobody_left

SITES = ("hospital-1", "hospital-2")

Role = Literal[
    *("server", "SuperLink", "server's executor", "ServerApp"),
    *("client", "SuperNode", "executor", "holder", "trainer", "worker"),
]
Phase = Literal["waiting", "sending", "training", "replying", "aggregating", "writing"]

SERVER_ROLES: tuple[Role, ...] = ("server", "SuperLink", "server's executor", "ServerApp")
SITE_ROLES: tuple[Role, ...] = ("client", "SuperNode", "executor", "holder", "trainer", "worker")

_WORDS: dict[str, str] = {
    "SuperLink": "feat_fed_server.superlink",
    "server's executor": "feat_fed_server 127",
    "SuperNode": "bounded_node",
    "executor": "feat_fed_client 127",
}
_BELOW: dict[str, Role] = {
    "ServerApp": "server's executor",
    "holder": "executor",
    "trainer": "holder",
    "worker": "trainer",
}


@dataclass
class Updates:
    """The updates that sites put into their spools."""

    written: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    """Times of writing by site and round: a second one means that it was trained again."""

    def look(self, site: str, store: Path) -> None:
        for path in (store / "spool").glob("*/round-*.safetensors"):
            with contextlib.suppress(OSError):
                key = (site, int(path.stem.removeprefix("round-")))
                self.written.setdefault(key, set()).add(path.stat().st_mtime_ns)

    @property
    def lost(self) -> int:
        return sum(len(times) - 1 for times in self.written.values())


class Stage:
    """Commands of a coordinator and two hospitals; one that dies is given again, as by systemd.

    Parameters
    ----------
    made
        Folders of a consortium (:func:`system.consortium.make_folders`).
    changes
        Of the tiny study.
    devices
        Processes that train at the first site.
    """

    def __init__(self, root: Path, made: Path, *, devices: int = 1, **changes: object) -> None:
        self.both = make_consortium(root, made, devices=devices)
        self.study = write_study(root, **changes)
        self.run = root / "runs" / "tiny"
        self.stores = {name: root / name / "store" for name in SITES}
        self.listen = f"127.0.0.1:{free_port()}"
        ports = [int(each.rpartition(":")[2]) for each in (self.both.address, self.listen)]
        self.link = Link(*ports)
        self.updates = Updates()
        self.commands: dict[str, Command] = {}
        self.wanted: set[str] = set()
        """Commands that are to run: ``server`` and the sites' names."""
        self._stack = contextlib.ExitStack()
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        self.link.start()
        self._stack.callback(self.link.stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, *names: str) -> None:
        """Have these commands run from now on; all, if none is named."""
        self.wanted.update(names or ("server", *SITES))
        self.keep_up()

    def keep_up(self) -> None:
        """Give commands again that have ended, and note what there is to see."""
        for name in self.wanted:
            command = self.commands.get(name)
            if command is None or command.process.poll() is not None:
                self.commands[name] = self._stack.enter_context(self._started(name))
        for name, store in self.stores.items():
            self.updates.look(name, store)

    def stop(self, *names: str) -> None:
        """Ask commands to end, and see that nothing of them is left."""
        for name in names or tuple(self.commands):
            self.wanted.discard(name)
            command = self.commands.pop(name)
            family = command.family() if command.process.poll() is None else []
            command.process.terminate()
            command.end(60)
            nobody_left(family)

    def _started(self, name: str) -> contextlib.AbstractContextManager[Command]:
        if name != "server":
            return self.both.client(name)
        arguments = ("--study", self.study, "--listen", self.listen)
        return self.both.server(*arguments)

    # What there is to see.

    @property
    def live(self) -> StudyLive | None:
        return StudyLive.read(self.run / "live.json")

    def site_live(self, site: str) -> SiteLive | None:
        return SiteLive.read(self.stores[site] / "live.json")

    def rounds_done(self) -> int:
        with contextlib.suppress(OSError, ValidationError):
            summary = (self.run / "summary.json").read_bytes()
            return RunSummary.model_validate_json(summary).rounds_done
        return 0

    def asked_rounds(self) -> list[int]:
        """Rounds of which sites were asked for an update, in order, as the audit log has them."""
        events = [each.event for each in lines(self.run / FOLDER)]
        asked = [each for each in events if each["kind"] == "site-asked"]
        return [int(each["round"]) for each in asked if each["task"] == "train"]

    def in_phase(self, phase: Phase, number: int, site: str) -> bool:
        """Whether round ``number`` is in a phase, as seen at the site where that is the place."""
        if phase == "writing":
            parts = (self.run / "checkpoints").glob(f".*-{number:04d}.*")
            return any(True for _ in parts)
        live, here = self.live, self.site_live(site)
        if live is None or live.round != number:
            return False
        if phase in ("waiting", "aggregating"):
            return live.phase == phase
        spooled = (site, number) in self.updates.written
        at_work = here is not None and here.round == number and here.phase != "idle"
        if live.phase != "training" or site in live.replied:
            return False
        if phase == "replying":
            return spooled
        if phase == "training":
            return at_work and here is not None and here.phase == "training"
        return not at_work and not spooled

    def find(self, role: Role, site: str | None = None) -> psutil.Process | None:
        """Return a process, if there is one of the role at the moment."""
        command = self.commands.get("server" if role in SERVER_ROLES else site or "")
        if command is None or command.process.poll() is not None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            if role in ("server", "client"):
                return psutil.Process(command.process.pid)
            if role in _BELOW:
                above = self.find(_BELOW[role], site)
                return next(iter(above.children()), None) if above else None
            for each in psutil.Process(command.process.pid).children():
                if _WORDS[role] in " ".join(each.cmdline()):
                    return each
        return None

    def wait(self, condition: Callable[[], object], timeout_sec: float = 600) -> None:
        """Keep things going until a condition holds."""
        deadline = time.monotonic() + timeout_sec
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.commands["server"].text()[-2000:])
            self.keep_up()
            time.sleep(0.02)

    def wait_for_phase(self, phase: Phase, number: int, site: str) -> None:
        """Wait for a phase, which may be one of milliseconds."""
        deadline = time.monotonic() + 300
        while not self.in_phase(phase, number, site):
            if phase == "replying":
                self.updates.look(site, self.stores[site])
            if self.rounds_done() >= number:
                raise MissedError(f"{phase} of round {number}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {phase} in round {number}")
            if phase not in ("aggregating", "writing"):
                time.sleep(0.01)


class MissedError(Exception):
    """The phase was over before anybody saw it."""


def make_consortium(root: Path, made: Path, *, devices: int = 1) -> Consortium:
    """Make one whose data, split and order of clips are those of any other."""
    both = Consortium(root, made, SITES)
    for name in SITES:
        store = root / name / "store"
        store.mkdir(mode=0o700)
        (store / "patients.key").write_bytes(bytes(32))
        compute = {"threads": 1, "devices": devices if name == SITES[0] else 1}
        data = [str(made / "data" / name)]
        both.write(name, paths=data, checkpoint_minutes=0.001, compute=compute)
    return both


def write_study(folder: Path, **changes: object) -> Path:
    tree = yaml.safe_load(TINY.read_text()) | changes
    tree["training"] |= {"local_steps": 30, "optimiser_state": "kept"}
    tree["sites"] |= {"wait_sec": 300, "round_sec": 300}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
