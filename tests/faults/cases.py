"""The faults: what is broken, in which phase of a round, and how it is mended again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from faults.stage import SERVER_ROLES, SITE_ROLES, SITES, Phase, Role, Stage
from feat_fed.report.run_store import RunStore

CUT_SEC = 10.0
FROZEN_SEC = 40.0
SLOW_BYTES_PER_SEC = 60_000.0
TMPFS_BYTES = 96_000_000

Act = Callable[[Stage, int, str], float]
"""Break something in a round, for a site; return the Unix time from which recovery counts: of the
fault, or of the moment from which nothing stands in its way (the link is there, the disk is free).
"""


@dataclass(frozen=True)
class Fault:
    """One line of the matrix."""

    name: str
    phase: Phase
    act: Act
    site: str = SITES[0]
    needs: str = ""
    """``mount`` or ``faketime``, for a fault that cannot be had everywhere."""
    may_change_weights: bool = False
    """Whether the site may have to go on with an older optimiser's state; it comes last then."""

    @property
    def key(self) -> str:
        return f"{self.name}, {self.phase}"


def kill(*roles: Role, sites: tuple[str, ...] | None = None) -> Act:
    """Kill processes with SIGKILL: those of the server, and of these sites."""

    def act(stage: Stage, number: int, site: str) -> float:
        victims = [
            stage.find(role, each)
            for role in roles
            for each in ((site,) if role in SERVER_ROLES else sites or (site,))
        ]
        if None in victims:
            raise LookupError(f"no such process in round {number}")
        for victim in victims:
            _signal(victim, signal.SIGKILL)
        return time.time()

    return act


def kill_twice(role: Role) -> Act:
    """Kill a process, and the next one as soon as it is there."""

    def act(stage: Stage, number: int, site: str) -> float:
        first = stage.find(role, site)
        began = kill(role)(stage, number, site)
        stage.wait(lambda: (now := stage.find(role, site)) is not None and now != first)
        kill(role)(stage, number, site)
        return began

    return act


def stand_still(role: Role) -> Act:
    def act(stage: Stage, number: int, site: str) -> float:
        _signal(stage.find(role, site), signal.SIGSTOP)
        return time.time()

    return act


def cut(stage: Stage, number: int, site: str) -> float:
    """Hang up and let nobody through for a while."""
    stage.link.set("cut")
    _pass_time(stage, CUT_SEC)
    stage.link.set("open")
    return time.time()


def freeze(stage: Stage, number: int, site: str) -> float:
    stage.link.set("frozen")
    _pass_time(stage, FROZEN_SEC)
    stage.link.set("open")
    return time.time()


def hang_up_in_the_middle(stage: Stage, number: int, site: str) -> float:
    stage.link.bytes_until_cut = 30_000
    return time.time()


def slow_down(stage: Stage, number: int, site: str) -> float:
    stage.link.bytes_per_sec = SLOW_BYTES_PER_SEC
    began = time.time()
    with contextlib.suppress(TimeoutError):
        stage.wait(lambda: stage.rounds_done() >= number, 90)
    stage.link.bytes_per_sec = None
    return began


def fill_server_disk(stage: Stage, number: int, site: str) -> float:
    """Leave no space for the run until the server's command has said so and ended."""
    with _filled(stage.both.root / "runs"):
        server = stage.commands["server"]
        _wait_for_end(server.process)
        _pass_time(stage, 3)  # it is given again, and finds the same
    return time.time()


def fill_site_disk(stage: Stage, number: int, site: str) -> float:
    with _filled(stage.stores[site]):
        _pass_time(stage, 8)
    return time.time()


def damage(what: Callable[[Stage, int, str], Path], *killed: Role) -> Act:
    """Kill processes, change bytes of a file that they had written, and let them go on."""

    def act(stage: Stage, number: int, site: str) -> float:
        commands = {"server" if role in SERVER_ROLES else site for role in killed}
        _wait_for_file(lambda: what(stage, number, site), stage, number)
        stage.wanted -= commands
        kill(*killed)(stage, number, site)
        for each in commands:
            stage.commands[each].process.wait(30)
        try:
            _change(what(stage, number, site))
        except FileNotFoundError:
            raise LookupError("the file was gone") from None
        finally:
            stage.start(*commands)
        return time.time()

    return act


def _wait_for_file(find: Callable[[], Path], stage: Stage, number: int) -> None:
    while stage.rounds_done() < number:
        with contextlib.suppress(LookupError):
            if find().exists():
                return
    raise LookupError("the round was over before there was such a file")


def _change(path: Path) -> None:
    """Change bytes; the time of writing stays, by which updates that were made again are told."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def tear_metrics(stage: Stage, number: int, site: str) -> float:
    stage.wanted.discard("server")
    kill("server")(stage, number, site)
    stage.commands["server"].process.wait(30)
    with (stage.run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": 1, "star')
    stage.start("server")
    return time.time()


def wrong_clock(stage: Stage, number: int, site: str) -> float:
    """Give the client's command on a machine whose clock is ten minutes behind."""
    stage.stop(site)
    with _environment(FAKETIME="-10m", LD_PRELOAD=_faketime()):
        stage.start(site)
    stage.wanted.discard(site)
    client = stage.commands[site]
    _wait_for_end(client.process)
    assert "clock" in client.text(), client.text()
    stage.start(site)
    return time.time()


def newest_checkpoint(stage: Stage, number: int, site: str) -> Path:
    return RunStore(stage.run).checkpoint(stage.rounds_done())


def round_manifest(stage: Stage, number: int, site: str) -> Path:
    return newest_checkpoint(stage, number, site).with_suffix(".json")


def arrived(stage: Stage, number: int, site: str) -> Path:
    return _there((stage.run / "inbox").glob(f"*{number:04d}/*.safetensors"))


def spooled(stage: Stage, number: int, site: str) -> Path:
    spool = stage.stores[site] / "spool"
    _there(spool.glob(f"*/second-{number:04d}.safetensors"))  # killed before that, it has one file
    return _there(spool.glob(f"*/round-{number:04d}.safetensors"))


def mid_round(stage: Stage, number: int, site: str) -> Path:
    return _there((stage.stores[site] / "rounds").glob("*/under-way.safetensors"))


def _there(paths: Iterator[Path]) -> Path:
    found = next(paths, None)
    if found is None:
        raise LookupError("no such file at this moment")
    return found


def _faults() -> Iterator[Fault]:
    of_server: tuple[Phase, ...] = ("sending", "training", "replying", "aggregating", "writing")
    for role in SERVER_ROLES:
        few = role == "server's executor"
        for phase in ("waiting", "training") if few else ("waiting", *of_server):
            yield Fault(f"{role} killed", phase, kill(role))
    for role in SITE_ROLES:
        if role != "worker":
            phases: tuple[Phase, ...] = ("sending", "training", "replying")
            below = role in ("holder", "trainer")
            for phase in phases[1:2] if below else phases:
                yield Fault(f"{role} killed", phase, kill(role))
    yield Fault("SuperLink killed, and again as it starts", "training", kill_twice("SuperLink"))
    yield Fault("ServerApp killed, and again as it starts", "training", kill_twice("ServerApp"))
    for role in ("SuperLink", "ServerApp"):
        yield Fault(f"{role} stands still", "training", stand_still(role))
    yield Fault("server and a site killed", "training", kill("server", "client"))
    yield Fault("server and a site killed", "replying", kill("server", "client"))
    everything = kill("server", "client", sites=SITES)
    yield Fault("everything killed at once", "training", everything)
    yield Fault("everything killed at once", "replying", everything)
    yield Fault(f"link cut for {CUT_SEC:.0f} s", "sending", cut)
    yield Fault(f"link cut for {CUT_SEC:.0f} s", "training", cut)
    yield Fault(f"link cut for {CUT_SEC:.0f} s", "replying", cut)
    yield Fault("link hangs up in the middle of a message", "training", hang_up_in_the_middle)
    yield Fault(f"link moves nothing for {FROZEN_SEC:.0f} s", "training", freeze)
    yield Fault("link of 60 kB/s", "sending", slow_down)
    yield Fault("server's disk full", "training", fill_server_disk, needs="mount")
    yield Fault(
        "site's disk full", "training", fill_site_disk, needs="mount", may_change_weights=True
    )
    yield Fault(
        "newest checkpoint damaged",
        "sending",
        damage(newest_checkpoint, "server"),
    )
    yield Fault(
        "a round's manifest damaged",
        "sending",
        damage(round_manifest, "server"),
    )
    yield Fault("metrics.jsonl torn", "training", tear_metrics)
    yield Fault("update at the server damaged", "replying", damage(arrived, "server"))
    yield Fault("update in the site's spool damaged", "replying", damage(spooled, "client"))
    yield Fault("mid-round checkpoint damaged", "training", damage(mid_round, "client"))
    yield Fault("site's clock wrong by 10 minutes", "training", wrong_clock, needs="faketime")


FAULTS = tuple(_faults())
WORKERS = (Fault("worker of two killed", "training", kill("worker")),)


def can(need: str) -> bool:
    """Whether a fault can be had on this machine."""
    if need == "mount":
        return os.geteuid() == 0
    return need != "faketime" or bool(_faketime())


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a small file system of its own under a folder that is empty still."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={TMPFS_BYTES},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def _filled(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    block = 1_000_000
    with filler.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(bytes(block))
            except OSError:
                block //= 2
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def _environment(**more: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _faketime() -> str:
    if shutil.which("faketime") is None:
        return ""
    found = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return str(next(iter(found), ""))


def _signal(process: psutil.Process | None, number: int) -> None:
    if process is None:
        raise LookupError("no such process")
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)


def _pass_time(stage: Stage, seconds: float) -> None:
    until = time.monotonic() + seconds
    stage.wait(lambda: time.monotonic() > until)


def named(words: list[str]) -> tuple[Fault, ...]:
    """Return the faults whose lines hold all of the words."""
    return tuple(each for each in FAULTS if all(word in each.key for word in words))


__all__ = ["FAULTS", "WORKERS", "Fault", "can", "kill", "named", "replace", "small_disk"]
