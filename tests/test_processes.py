import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from feat_fed.errors import ChildError, ConfigError
from feat_fed.processes import (
    ChildGroup,
    free_port,
    require_free,
    split_address,
    wait_for_port,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); print(p.pid, flush=True); time.sleep(600)",
]


def wait_until(condition: object, timeout_sec: float = 10) -> None:
    deadline = time.monotonic() + timeout_sec
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_children_end_with_the_block_and_so_do_theirs(tmp_path: Path) -> None:
    with ChildGroup(grace_sec=0.5) as group:
        child = group.start("stubborn", STUBBORN, log_file=tmp_path / "log")
        wait_until(lambda: child.tail().strip())
        grandchild = psutil.Process(int(child.tail()))
    assert child.process.poll() is not None
    wait_until(lambda: not grandchild.is_running())


def test_a_child_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    with ChildGroup() as group:
        command = [sys.executable, "-c", "print('last words'); raise SystemExit(3)"]
        group.start("the worker", command, log_file=tmp_path / "w.log").process.wait()
        with pytest.raises(ChildError, match=r"the worker .*exit status 3.*w\.log\nlast words"):
            group.check()


def test_children_of_a_killed_supervisor_end_too(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from feat_fed.processes import ChildGroup\n"
        f"with ChildGroup() as g: print(g.start('x', {SLEEP!r}, "
        f"log_file=Path({str(tmp_path / 'log')!r})).process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.send_signal(signal.SIGKILL)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another port"):
            require_free("127.0.0.1", taken.getsockname()[1])
    require_free("127.0.0.1", free_port())


def test_waiting_for_a_port_ends_when_the_child_does(tmp_path: Path) -> None:
    with ChildGroup() as group:
        group.start("brief", [sys.executable, "-c", ""], log_file=tmp_path / "log")
        with pytest.raises(ChildError, match="brief"):
            wait_for_port("127.0.0.1", free_port(), group, timeout_sec=30)


@pytest.mark.parametrize("address", ["host", "host:0", "host:65536", "host:x", ":80"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_address(address)


def test_addresses() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("a.example:443") == ("a.example", 443)
