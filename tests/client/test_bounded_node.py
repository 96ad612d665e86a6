"""Flower's SuperNode against a server that answers what it should not."""

import functools
import gzip
import io
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal
from flwr.supernode.fleet_http_client import FleetHttpClient

from feat_fed.config import ServerLinkConfig
from feat_fed_client.bounded_calls import (
    MAX_ANSWER_BYTES,
    SILENCE_SEC,
    BoundedFleetClient,
    TooLargeError,
)
from feat_fed_client.bounded_node import unread_config
from feat_fed_client.connection import Connection
from feat_fed_client.keys import make_site_key


class Hostile(BaseHTTPRequestHandler):
    """What it answers is set by each test; it keeps what was asked of it."""

    status = 200
    headers_out: dict[str, str] = {}  # noqa: RUF012
    content = b""
    pause_sec = 0.0
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.pause_sec)
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


def test_the_answer_to_an_object_may_take_as_long_as_a_slow_line(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hostile, "pause_sec", 1.0)
    with BoundedFleetClient.from_server_address(server, True, None, []) as client:
        client._client.timeout = 0.2
        client.PushObject(PushObjectRequest(object_content=b"x"))
        with pytest.raises(httpx.ReadTimeout):
            client.GetFab(GetFabRequest(hash_str="x"))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="an option of Linux's")
def test_the_kernel_ends_a_connection_that_nobody_acknowledges(server: str) -> None:
    watched = []

    def look(response: httpx.Response) -> None:
        connection = response.extensions["network_stream"].get_extra_info("socket")
        of = functools.partial(connection.getsockopt, socket.IPPROTO_TCP)
        watched.append(
            (
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                of(socket.TCP_KEEPIDLE) + of(socket.TCP_KEEPINTVL) * of(socket.TCP_KEEPCNT),
                of(socket.TCP_USER_TIMEOUT) / 1000,
            )
        )

    with BoundedFleetClient.from_server_address(server, True, None, []) as client:
        client._client.event_hooks["response"].append(look)
        client.PushObject(PushObjectRequest(object_content=b"x"))
        client.GetFab(GetFabRequest(hash_str="x"))
    assert watched == [(1, SILENCE_SEC, SILENCE_SEC)] * 2


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (bytes(MAX_ANSWER_BYTES + 1), "identity"),
        (gzip.compress(bytes(100_000_000), 1), "gzip"),
        (b"no message of Flower's", "identity"),
    ],
)
def test_a_client_that_asks_after_its_place_survives_what_is_answered(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    encoding: str,
) -> None:
    monkeypatch.setattr(Hostile, "content", content)
    monkeypatch.setattr(Hostile, "headers_out", {"content-encoding": encoding})
    make_site_key(tmp_path / "site.key")
    (tmp_path / "ca.crt").touch()
    link = ServerLinkConfig(
        address=server, ca_certificate=tmp_path / "ca.crt", private_key=tmp_path / "site.key"
    )
    with_tls = BoundedFleetClient.from_server_address

    def without_tls(address: str, **named: Any) -> FleetHttpClient:
        changed = {"insecure": True, "root_certificates": None}
        return with_tls(address, **named | changed)

    monkeypatch.setattr(FleetHttpClient, "from_server_address", without_tls)
    monkeypatch.setattr(BoundedFleetClient, "from_server_address", without_tls)
    connection = Connection(tmp_path, link)
    connection.note(7)
    connection.give_up()
    assert connection.is_forgotten(7) is False
    assert len(Hostile.asked) == 2


def test_a_bundle_is_not_opened_before_it_is_approved() -> None:
    """Flower's own function stands where ours does, and would unpack this."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("pyproject.toml", bytes(10_000_000))
    assert callable(start_client_internal.get_fused_config_from_fab)  # type: ignore[attr-defined]
    assert unread_config(packed.getvalue(), Run.create_empty(1)) == {}
