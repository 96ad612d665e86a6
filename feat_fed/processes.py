"""Child processes that are started, watched and ended together; free ports."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from feat_fed.errors import ChildError, ConfigError
from feat_fed.log_file import ChildLog


@dataclass(frozen=True)
class Child:
    """A process that we started, its name for messages and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: ChildLog

    @property
    def log_file(self) -> Path:
        """Where its output goes."""
        return self.log.path

    def tail(self, lines: int = 5) -> str:
        """Return the last lines that the process wrote."""
        return self.log.tail(lines)

    def is_at_work(self) -> bool:
        """Whether the process has processes of its own."""
        return len(_family(self.process)) > 1

    def kill_family(self) -> None:
        """Kill the processes that this one has started, and not itself."""
        for member in _family(self.process)[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


class ChildGroup:
    """Children that live no longer than the ``with`` block, whatever ends it.

    Each runs in a session of its own, so that Ctrl-C reaches the supervisor alone and
    the children are all asked to end, then killed; each is killed by the kernel too
    if the supervisor dies.
    """

    def __init__(self, *, grace_sec: float = 8.0) -> None:
        self._grace_sec = grace_sec
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_file: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start ``command`` with its output appended to ``log_file``; environment is added to.

        It gets the open files ``pass_fds`` under the same numbers.
        """
        log = ChildLog(log_file)
        guarded = [sys.executable, "-m", "feat_fed.child", str(os.getpid()), *command]
        with log_file.open("ab") as output:
            process = subprocess.Popen(
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                pass_fds=pass_fds,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def remove(self, child: Child) -> None:
        """Forget a child that has ended and was dealt with."""
        self._children.remove(child)

    def end(self, child: Child, *, at_once: bool = False) -> None:
        """End one child, if it has not ended yet, and whatever it started; forget it.

        Parameters
        ----------
        at_once
            Kill it without asking it first, as one that hangs.
        """
        family = _family(child.process)
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
        _end(child.process, family, self._grace_sec)
        self.remove(child)

    def check(self) -> None:
        """Raise :class:`ChildError` if any child has ended; keep the logs small."""
        self.rotate_logs()
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise ChildError(
                    f"{child.name} has ended ({describe_exit(code)}); its log is {child.log_file}\n"
                    f"{child.tail()}"
                )

    def rotate_logs(self) -> None:
        """Keep the logs small; to be called every now and then."""
        for child in self._children:
            child.log.rotate_if_large()

    def stop(self) -> None:
        """End all children and whatever they started; returns when none is left."""
        families = [_family(child.process) for child in reversed(self._children)]
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        for child, family in zip(reversed(self._children), families, strict=True):
            _end(child.process, family, self._grace_sec)
        self._children.clear()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def split_address(address: str) -> tuple[str, int]:
    """Split HOST:PORT (an IPv6 host in brackets).

    Raises
    ------
    ConfigError
        If the port is not 1..65535.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is not HOST:PORT with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def require_free(host: str, port: int) -> None:
    """Raise :class:`ConfigError` if ``host:port`` cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(
                f"cannot listen on {host}:{port}: {why}; {_mend_of(error, port)}"
            ) from error


def _mend_of(error: OSError, port: int) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return (
            f"it is no address of this machine: listen on one that is, such as 0.0.0.0:{port} "
            "for all (`--listen`)"
        )
    if error.errno == errno.EACCES:
        return "ports below 1024 are for root: choose another (`--listen`)"
    return "stop what uses it or choose another port (`--listen`)"


def wait_for_port(host: str, port: int, group: ChildGroup, *, timeout_sec: float = 300.0) -> None:
    """Wait until something accepts connections on ``host:port``; fail early if a child ends."""
    deadline = time.monotonic() + timeout_sec
    while time.monotonic() < deadline:
        group.check()
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.1)
    raise ChildError(f"nothing answered on {host}:{port} within {timeout_sec:.0f} s")


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the process and all its descendants, also those in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    return []


def _end(
    process: subprocess.Popen[bytes], family: Sequence[psutil.Process], grace_sec: float
) -> None:
    """Give a process that was asked to end some time, then kill it and its descendants."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_sec)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs([each for each in family if each.pid != process.pid], timeout=grace_sec)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_sec)


def describe_exit(code: int) -> str:
    """Return what an exit code of :mod:`subprocess` means: a status, or a signal's name."""
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
