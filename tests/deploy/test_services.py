"""Units for systemd and scripts for Slurm are looked at by the tools that would run them."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feat_fed.cli.main import run_app

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SYSTEMD = DEPLOY / "systemd"
UNITS = sorted(SYSTEMD.glob("feat-fed-*"))
SERVICES = [each for each in UNITS if each.suffix == ".service"]
SCRIPTS = sorted([*DEPLOY.glob("slurm/*.sbatch"), *DEPLOY.glob("wheelhouse/*.sh")])
COMMAND = "/opt/feat-fed/bin/feat-fed"
MOST_EXPOSED = 20
"""Of 100, by `systemd-analyze security`; what it leaves to say is the network, mostly."""


def name(path: Path) -> str:
    return path.relative_to(DEPLOY).as_posix()


def run(*command: object) -> str:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_LOG_LEVEL": "warning"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, of a command that is here."""
    for path in UNITS:
        text = path.read_text()
        assert path.suffix == ".timer" or COMMAND in text
        (tmp_path / path.name).write_text(text.replace(COMMAND, "/bin/true"))
    return tmp_path


def section(path: Path, title: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser[title]


@pytest.mark.parametrize("unit", UNITS, ids=name)
def test_systemd_takes_a_unit_without_a_word(units: Path, analyze: str, unit: Path) -> None:
    assert run(analyze, "verify", units / unit.name) == ""


@pytest.mark.parametrize("drop_in", sorted(SYSTEMD.glob("drop-ins/*")), ids=name)
def test_systemd_takes_a_drop_in_without_a_word(units: Path, analyze: str, drop_in: Path) -> None:
    client = units / "feat-fed-client@.service"
    folder = units / f"{client.name}.d"
    folder.mkdir()
    shutil.copy(drop_in, folder)
    assert run(analyze, "verify", client) == ""
    (folder / drop_in.name).write_text(drop_in.read_text() + "Nonsense=1\n")
    assert "Nonsense" in run(analyze, "verify", client)


@pytest.mark.parametrize("unit", SERVICES, ids=name)
def test_a_service_is_shut_in(units: Path, analyze: str, unit: Path) -> None:
    threshold = f"--threshold={MOST_EXPOSED}"
    run(analyze, "security", "--offline=true", "--no-pager", threshold, units / unit.name)


@pytest.mark.parametrize("unit", SERVICES, ids=name)
def test_a_service_gives_arguments_that_its_command_takes(
    unit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = unit.read_text().replace("%i", "heart").splitlines()
    [command, *_] = [line[10:].split() for line in lines if line.startswith("ExecStart=")]
    assert command[0] == COMMAND
    arguments = [each for each in command[1:] if not each.startswith("$")]
    (tmp_path / "studies").mkdir()
    run_app(["server", "--study", "demo", "--dry-run"])
    (tmp_path / "studies" / "heart.yaml").write_text(capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    # What comes of it in an empty folder is one message on a file; 2 is a wrong command line.
    assert run_app(arguments) == 1
    told = " ".join(capsys.readouterr().err.split())
    missing = {
        "server": "federation/federation.yaml",
        "client": "site.yaml",
        "backup": "runs/heart",
    }
    assert missing[arguments[0]] in told


def test_a_mistake_ends_the_trying() -> None:
    for path in SERVICES:
        service, unit = section(path, "Service"), section(path, "Unit")
        if service["Type"] == "oneshot":
            continue
        tries, pause_sec = int(unit["StartLimitBurst"]), int(service["RestartSec"])
        # Also where each try takes a minute, as a start of Python on a busy machine may.
        assert tries * (pause_sec + 60) < int(unit["StartLimitIntervalSec"])
        assert service["SuccessExitStatus"] == "130"  # of `run_app`, for SIGTERM


def test_account_and_folders_can_be_made(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None or os.geteuid() != 0:
        pytest.skip("needs systemd-sysusers, and to be root")
    root = f"--root={tmp_path}"
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", root, SYSTEMD / "sysusers.conf")
    run("systemd-tmpfiles", root, "--create", SYSTEMD / "tmpfiles.conf")
    folder = tmp_path / "var/lib/feat-fed"
    assert (folder / "federation").stat().st_mode & 0o777 == 0o700
    passwd = (tmp_path / "etc/passwd").read_text()
    users = dict(line.split(":")[::2][:2] for line in passwd.splitlines())
    assert folder.stat().st_uid == int(users["feat-fed"])


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_is_one_and_shellcheck_has_nothing_to_say(script: Path) -> None:
    shell = "sh" if script.read_text().startswith("#!/bin/sh") else "bash"
    run(shell, "-n", script)
    beside = Path(sys.executable).with_name("shellcheck")
    found = str(beside) if beside.exists() else shutil.which("shellcheck")
    if found is None:
        pytest.skip("shellcheck is not installed (`make check` installs it)")
    run(found, "--shell", shell, script)


def test_every_file_here_is_one_of_these() -> None:
    known = {*UNITS, *SCRIPTS, *SYSTEMD.glob("drop-ins/*"), *SYSTEMD.glob("*.conf")}
    known.add(DEPLOY / "wheelhouse" / "build.py")
    here = {each for it in ("systemd", "slurm", "wheelhouse") for each in (DEPLOY / it).rglob("*")}
    assert {each for each in here if each.is_file() and each.suffix != ".pyc"} == known
