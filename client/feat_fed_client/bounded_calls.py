"""Calls of Flower's Fleet API, with bounds on what a server can answer, and on its silence."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import psutil
from flwr.supernode.fleet_http_client import FleetHttpClient

MAX_ANSWER_BYTES = 8 * 1024**2
"""Of one call: objects travel in chunks of 5 MiB, and an envelope."""

PUSH_SEC = 900.0
"""For an object to go and to be answered, as long as the door gives it: over a slow line up to a
chunk that has not gone yet is in the kernel, or in a proxy."""
_PUSH = "/v1/fleet/push-object"

SILENCE_SEC = 120
"""After which the kernel ends a connection whose other end acknowledges nothing any more, or takes
nothing: a slow line does both, a machine without power and a firewall that has forgotten the
connection do not. Behind a proxy, the other end is the proxy."""
_PROBES = 3

_MEMORY_SHARE = 0.5


def most_message_bytes() -> int:
    """Return how much memory a message of the server's may take: half of the machine's."""
    return int(psutil.virtual_memory().total * _MEMORY_SHARE)


class TooLargeError(ValueError):
    """An answer of the server is larger than any that it has to give."""


class BoundedFleetClient(FleetHttpClient):
    """Calls of the Fleet API whose answers come from the study's server alone and are bounded."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._client.follow_redirects = False
        self._client.headers["accept-encoding"] = "identity"
        self._client.event_hooks = {"request": [_be_patient], "response": [_bound]}


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise TooLargeError(f"an answer of the server over {MAX_ANSWER_BYTES} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _be_patient(request: httpx.Request) -> None:
    request.extensions["trace"] = _watch_connection
    if request.url.path == _PUSH:
        request.extensions["timeout"] |= {"read": PUSH_SEC, "write": PUSH_SEC}


def _watch_connection(event: str, told: Mapping[str, Any]) -> None:
    """Have a new connection watched by the kernel, while data are under way and while none are.

    The options are those of Linux's tcp(7); where a system lacks one, its own patience holds.
    """
    if event != "connection.connect_tcp.complete":
        return
    connection: socket.socket = told["return_value"].get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENCE_SEC // 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENCE_SEC // 2 // _PROBES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_SEC * 1000)


def _bound(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise TooLargeError("a compressed answer of the server, which was not asked for")
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Bounded(response.stream)
