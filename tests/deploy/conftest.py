"""A coordinator's certificates, and a door that answers by them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from feat_fed_server.certificates import TlsFiles, make_ca, make_server_certificate


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    files = TlsFiles(tmp_path / "tls")
    files.folder.mkdir()
    make_ca(files)
    make_server_certificate(files, hosts=("coordinator.example.org",))
    return files


class _Door(BaseHTTPRequestHandler):
    """Tells the path that was asked for."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def door(tls: TlsFiles) -> Iterator[int]:
    """The port of an HTTPS server with the coordinator's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Door)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes fail on purpose
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()
