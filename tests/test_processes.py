import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from feat_fed import log_file
from feat_fed.errors import ChildError, ConfigError
from feat_fed.processes import (
    ChildGroup,
    free_port,
    require_free,
    split_address,
    wait_for_port,
)
from waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); print(p.pid, flush=True); time.sleep(600)",
]


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


CHATTY = (
    "import sys, time\n"
    "for number in range(3000): print(f'line {number:05d}', flush=number % 50 == 0)\n"
    "sys.stdout.flush(); open(sys.argv[1], 'w').close(); time.sleep(600)"
)


def test_a_long_log_is_kept_in_a_few_files_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 4000)
    told: list[str] = []
    with ChildGroup() as group:
        command = [sys.executable, "-c", CHATTY, str(tmp_path / "done")]
        child = group.start("chatty", command, log_file=tmp_path / "logs" / "log")

        def done() -> bool:
            group.check()
            told.extend(child.log.news())
            return (tmp_path / "done").exists()

        wait_until(done)
        group.check()
        told.extend(child.log.news())
        assert child.tail(2) == "line 02998\nline 02999"
    # What came in the instant of a cut may be missing: how much, the machine's load decides.
    whole = [line for line in told if re.fullmatch(r"line \d{5}", line)]
    assert whole == sorted(whole) and whole[-1] == "line 02999"
    files = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert files[:2] == ["log", "log.1"] and len(files) <= 1 + log_file.BACKUPS


def test_nothing_is_lost_by_rotation_where_nothing_is_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 1000)
    log = log_file.ChildLog(tmp_path / "log")
    told: list[str] = []
    lines = [f"line {number:05d}" for number in range(3000)]
    for first in range(0, len(lines), 70):
        with log.path.open("a") as child:
            child.writelines(f"{line}\n" for line in lines[first : first + 70])
        if first % 3:
            told.extend(log.news())
        log.rotate_if_large()
    told.extend(log.news())
    assert told == lines
    assert log.path.stat().st_size <= 1000


def test_what_a_child_says_last_is_kept_when_its_log_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 100)
    with ChildGroup() as group:
        script = "print('x' * 200); print('code: 9401'); print('no end of line', end='')"
        child = group.start("brief", [sys.executable, "-c", script], log_file=tmp_path / "log")
        child.process.wait()
        with pytest.raises(ChildError, match="code: 9401\nno end of line"):
            group.check()
        assert (tmp_path / "log").read_text() == ""
        assert (tmp_path / "log.1").read_text().endswith("no end of line")
        assert child.log.news()[-1] == "code: 9401"


def test_a_log_of_a_child_before_is_not_this_ones(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("SuperNode ID: 1\n")
    with ChildGroup() as group:
        command = [sys.executable, "-c", "print('hello')"]
        child = group.start("next", command, log_file=tmp_path / "log")
        child.process.wait()
        assert (child.log.news(), child.tail()) == (["hello"], "hello")
    assert (tmp_path / "log").read_text() == "SuperNode ID: 1\nhello\n"


def test_a_log_that_cannot_be_copied_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "MAX_BYTES", 10)
    log = log_file.ChildLog(tmp_path / "log")
    log.path.write_text("some words of a child\n")
    (tmp_path / "log.1").write_text("before\n")

    def full(*files: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_file.shutil, "copyfileobj", full)
    log.rotate_if_large()
    assert log.tail(5) == "some words of a child"
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "log": "some words of a child\n",
        "log.1": "before\n",
    }


def test_what_a_log_tells_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    log = log_file.ChildLog(tmp_path / "log")
    log.path.write_bytes(b"\x1b[92mINFO\x1b[0m: said \x1b]0;title\x07 \xe2\x80\xae\n\x1b[2Jhalf")
    assert log.tail(2) == "INFO: said ?]0;title? ?\n?[2Jhalf"
    assert log.news() == ["INFO: said ?]0;title? ?"]


def test_a_grandchild_that_lives_on_holds_nobody_up_and_still_has_its_log(tmp_path: Path) -> None:
    late = "import time; time.sleep(1); print('late words', flush=True); time.sleep(600)"
    script = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {late!r}], "
        "start_new_session=True).pid, flush=True)"
    )
    with ChildGroup(grace_sec=0.5) as group:
        child = group.start("forker", [sys.executable, "-c", script], log_file=tmp_path / "log")
        assert child.process.wait() == 0
        orphan = psutil.Process(int(child.tail()))
        wait_until(lambda: child.tail(1) == "late words")
    assert orphan.is_running()  # its parent was gone: nobody can tell whose it is
    orphan.kill()


@pytest.mark.parametrize("address", ["host", "host:0", "host:65536", "host:x", ":80"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_address(address)


def test_addresses() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("a.example:443") == ("a.example", 443)
