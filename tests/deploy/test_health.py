"""What a container's health is told by."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from feat_fed_client import CLIENT_LOCK
from feat_fed_server.certificates import TlsFiles, make_ca

HEALTH = Path(__file__).resolve().parents[2] / "deploy" / "docker"


def ended(script: str, *arguments: object) -> tuple[int, str]:
    command = [sys.executable, str(HEALTH / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_server_is_healthy_while_its_door_answers(
    tls: TlsFiles, door: int, tmp_path: Path
) -> None:
    assert ended("server_health.py", door, tls.ca_certificate) == (0, "")
    other = TlsFiles(tmp_path / "other")
    other.folder.mkdir()
    make_ca(other)
    code, told = ended("server_health.py", door, other.ca_certificate)
    assert code == 1
    assert "certificate verify failed" in told


def test_a_server_whose_door_is_closed_is_not(tls: TlsFiles) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, told = ended("server_health.py", port, tls.ca_certificate)
    assert code == 1
    assert f"port {port}: " in told


def test_a_client_is_healthy_while_it_holds_its_store(tmp_path: Path) -> None:
    store, file = tmp_path / "store", tmp_path / "site.yaml"
    (store / CLIENT_LOCK).parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({"name": "a", "data": {"paths": ["."]}, "store": "store"}))
    assert ended("client_health.py", file)[0] == 1
    with (store / CLIENT_LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ended("client_health.py", file) == (0, "")
    file.write_text("name: a\n")
    code, told = ended("client_health.py", file)
    assert code == 1
    assert "data" in told
