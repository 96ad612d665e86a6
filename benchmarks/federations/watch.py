"""Memory of a federation's processes, and bytes on its sites' connections, as Linux tells them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from federations.contender import Running

_EVERY_SEC = 0.5
_PSS_SHARE = 1 / 30
"""Of the time, at most, for the kernel walks through all pages for it."""
_COUNTER = re.compile(r"\b(bytes_sent|bytes_received):(\d+)")
_SERVER = ("superlink", "serverapp")
_SITE = ("supernode", "clientapp")


@dataclass
class Watched:
    """What was seen between two instants; bytes of memory and of sockets."""

    peak_rss: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By role, of its largest process: the kernel's high-water mark."""
    peak_pss: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By role, of all its processes together: the largest of samples. ``server`` is the server's
    side, ``sites`` that of all sites."""
    down: int = 0
    up: int = 0


class Watch:
    """Look at a federation's processes until the block ends."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._seen = Watched()
        self._roles: dict[int, str | None] = {}
        self._sockets: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()

    @contextlib.contextmanager
    def looking(self) -> Iterator[Watch]:
        """Look in a thread."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._end.set()
            thread.join()

    def begin(self) -> None:
        """Forget what was seen; sockets' counters go on."""
        self._note_sockets()
        with self._lock:
            down, up = self._moved()
            self._seen = Watched(down=-down, up=-up)
            for pid in self._roles:
                with contextlib.suppress(OSError):
                    Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak is what it has now

    def result(self) -> Watched:
        """Return what was seen since."""
        self._note_pss(list(self._processes()))  # rounds may be shorter than the time between looks
        self._note_sockets()
        with self._lock:
            down, up = self._moved()
            self._seen.down += down
            self._seen.up += up
            return self._seen

    def _look(self) -> None:
        pss_at = 0.0
        while not self._end.wait(_EVERY_SEC):
            processes = list(self._processes())
            self._note_rss(processes)
            self._note_sockets()
            if (began_at := time.monotonic()) >= pss_at:
                self._note_pss(processes)
                pss_at = began_at + (time.monotonic() - began_at) / _PSS_SHARE

    def _processes(self) -> Iterator[tuple[int, str]]:
        for root in self._running.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root.pid)
                for each in [process, *process.children(recursive=True)]:
                    role = self._role(each)
                    if role is not None:
                        yield each.pid, role

    def _role(self, process: psutil.Process) -> str | None:
        # Between fork and exec a process has its parent's command line: it is looked at again.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            self._roles[process.pid] = self._running.role(" ".join(process.cmdline()))
        return self._roles.get(process.pid)

    def _note_rss(self, processes: list[tuple[int, str]]) -> None:
        for pid, role in processes:
            peak = _kilobytes(f"/proc/{pid}/status", "VmHWM:") * 1024
            with self._lock:
                self._seen.peak_rss[role] = max(self._seen.peak_rss[role], peak)

    def _note_pss(self, processes: list[tuple[int, str]]) -> None:
        sums: dict[str, int] = defaultdict(int)
        for pid, role in processes:
            held = _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") * 1024
            sums[role] += held
            if role in _SERVER + _SITE:
                sums["server" if role in _SERVER else "sites"] += held
        with self._lock:
            for role, held in sums.items():
                self._seen.peak_pss[role] = max(self._seen.peak_pss[role], held)

    def _note_sockets(self) -> None:
        command = ["ss", "-tinpHO", "dport", "=", f":{self._running.port}"]
        with contextlib.suppress(FileNotFoundError):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            with self._lock:
                for line in told.splitlines():
                    self._note_socket(line)

    def _note_socket(self, line: str) -> None:
        pid = re.search(r"pid=(\d+)", line)
        if pid is None or self._roles.get(int(pid[1])) in (None, *_SERVER):
            return
        counters = {name: int(number) for name, number in _COUNTER.findall(line)}
        key = " ".join(line.split()[3:5]) + pid[1]
        self._sockets[key] = (counters.get("bytes_received", 0), counters.get("bytes_sent", 0))

    def _moved(self) -> tuple[int, int]:
        return (
            sum(down for down, _ in self._sockets.values()),
            sum(up for _, up in self._sockets.values()),
        )


def _kilobytes(path: str, field_name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(field_name):
                return int(line.split()[1])
    return 0


def wait_for(rounds: Callable[[], int], number: int, running: Running, timeout_sec: float) -> float:
    """Wait until so many rounds are done; return the time by ``time.monotonic``."""
    deadline = time.monotonic() + timeout_sec
    while rounds() < number:
        running.require_alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"round {number} was not done within {timeout_sec:.0f} s")
        time.sleep(0.02)
    return time.monotonic()
