"""The recipes of deploy/nginx before a door, by a real nginx."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feat_fed.processes import free_port
from feat_fed_server.certificates import TlsFiles

RECIPES = Path(__file__).resolve().parents[2] / "deploy" / "nginx"


@contextlib.contextmanager
def proxy(recipe: str, folder: Path, tls: TlsFiles, door: int) -> Iterator[int]:
    """Run nginx with a recipe that has this machine's addresses and folders in it."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if not nginx:
        pytest.skip("nginx is not installed")
    port, text = free_port(), (RECIPES / recipe).read_text()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in kinds)
    for before, after in (
        ("http {", f"http {{ {folders}"),
        ("listen [::]:9443", f"listen [::1]:{port}"),
        ("listen 9443", f"listen 127.0.0.1:{port}"),
        ("10.0.0.5:9443", f"127.0.0.1:{door}"),
        ("feat-fed-server:9443", f"127.0.0.1:{door}"),
        ("/etc/feat-fed/tls", str(tls.folder)),
    ):
        text = text.replace(before, after)
    (folder / recipe).write_text(text)
    settings = f"daemon off; pid {folder}/nginx.pid;"
    command = [nginx, "-e", "stderr", "-c", str(folder / recipe), "-g", settings]
    with (folder / "nginx.log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            while process.poll() is None and not (folder / "nginx.pid").exists():
                time.sleep(0.02)
            if process.poll() is not None and "stream" in (folder / "nginx.log").read_text():
                pytest.skip("nginx has no stream module")
            assert process.poll() is None, (folder / "nginx.log").read_text()
            yield port
        finally:
            process.terminate()


def answer(port: int, ca: Path, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False  # it is for the name that hospitals use
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request(method, path, body=body)
        got = connection.getresponse()
        return got.status, got.read()


def test_a_stream_reaches_the_server_s_own_tls(tmp_path: Path, tls: TlsFiles, door: int) -> None:
    with proxy("stream.conf", tmp_path, tls, door) as port:
        got = answer(port, tls.ca_certificate, "POST", "/anything", b"x" * 100_000)
    assert got == (200, b"/anything")


def test_requests_reach_the_twelve_paths_alone(tmp_path: Path, tls: TlsFiles, door: int) -> None:
    with proxy("http.conf", tmp_path, tls, door) as port:

        def status(method: str, path: str, body: bytes = b"") -> int:
            return answer(port, tls.ca_certificate, method, path, body)[0]

        assert status("POST", "/v1/fleet/pull-messages", b"x" * 100_000) == 200
        assert status("POST", "/feat-fed/probe") == 200
        assert status("POST", "/feat-fed/join", b"x" * 1000) == 200
        assert status("POST", "/feat-fed/join", b"x" * 5000) == 413
        assert status("GET", "/feat-fed/probe") == 404
        assert status("POST", "/v1/control/start-run") == 404
        assert status("POST", "/v1/fleet/pull-messages/") == 404
