"""Flower's SuperNode against a server that answers what it should not."""

import gzip
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal

from feat_fed_client.bounded_node import (
    MAX_ANSWER_BYTES,
    BoundedFleetClient,
    TooLargeError,
    unread_config,
)


class Hostile(BaseHTTPRequestHandler):
    """What it answers is set by each test; it keeps what was asked of it."""

    status = 200
    headers_out: dict[str, str] = {}  # noqa: RUF012
    content = b""
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(self.status)
        for name, value in self.headers_out.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(self.content)))
        self.end_headers()
        try:
            self.wfile.write(self.content)
        except ConnectionError:
            return

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Hostile, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def ask(address: str) -> GetFabResponse:
    with BoundedFleetClient.from_server_address(address, True, None, []) as client:
        return client.GetFab(GetFabRequest(hash_str="x"))


def test_an_answer_in_order_comes_through(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = GetFabResponse()
    answer.fab.content = b"x" * 1000
    monkeypatch.setattr(Hostile, "content", answer.SerializeToString())
    assert ask(server) == answer


def test_a_redirect_is_not_followed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hostile, "status", 307)
    monkeypatch.setattr(Hostile, "headers_out", {"location": f"http://{server}/inside"})
    with pytest.raises(httpx.HTTPStatusError):
        ask(server)
    assert "/inside" not in Hostile.asked


def test_an_endless_answer_is_cut_off(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hostile, "content", bytes(MAX_ANSWER_BYTES + 1))
    with pytest.raises(TooLargeError):
        ask(server)


def test_a_compressed_answer_is_not_unpacked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hostile, "content", gzip.compress(bytes(100_000_000), 1))
    monkeypatch.setattr(Hostile, "headers_out", {"content-encoding": "gzip"})
    with pytest.raises(TooLargeError):
        ask(server)


def test_a_bundle_is_not_opened_before_it_is_approved() -> None:
    """Flower's own function stands where ours does, and would unpack this."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("pyproject.toml", bytes(10_000_000))
    assert callable(start_client_internal.get_fused_config_from_fab)  # type: ignore[attr-defined]
    assert unread_config(packed.getvalue(), Run.create_empty(1)) == {}
