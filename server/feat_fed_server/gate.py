"""What comes before a request: connections, TLS and the head of a request, all within bounds.

A stranger can do nothing here but take up places. So places are lent to strangers: when there
are too many, the stranger who came first makes room. Who has shown a registered key keeps its
place, and one behind a stranger's address gets one as soon as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from feat_fed_server.budgets import Budgets, neighbourhood

HANDSHAKE_SEC = 10.0
HEAD_SEC = 10.0
"""For the head of a request, from the connection or from its first byte on."""
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 512
MAX_CONNECTIONS_EACH = 64
"""Of one address, registered sites behind it included."""
CONNECTIONS_PER_SEC = 20.0
CONNECTIONS_BURST = 100.0

_ACCEPT_PAUSE_SEC = 0.5
_TELL_PER_SEC = 0.2
_TELL_BURST = 20.0
# What the kernel keeps unsent: with more, the time that a slow line takes could not be seen.
_UNSENT_BYTES = 128 * 1024

# What waits here for the kernel: at an answer's end it is lost where a line needs over 45 s for it.
_WAITING_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class _Protocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, with a bound on a request's head in time and size."""

    def __init__(self, *arguments: Any, on_lost: Callable[[], None], **named: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **named)
        self._on_lost = on_lost
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_left = MAX_HEAD_BYTES

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WAITING_BYTES)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        while data and self._head_timer is not None:
            piece, data = data[: self._head_left], data[self._head_left :]
            if not piece:
                self.transport.abort()
                return
            self._head_left -= len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
        if data:
            super().data_received(data)

    def on_message_begin(self) -> None:
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_is_over()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_over()
        super().connection_lost(exc)
        self._on_lost()

    def _await_head(self) -> None:
        self._head_left = MAX_HEAD_BYTES
        self._head_timer = self.loop.call_later(HEAD_SEC, self.transport.abort)

    def _head_is_over(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


@dataclass(eq=False)
class _Visitor:
    """A connection, from the moment at which it was accepted."""

    host: str
    port: int
    is_proven: bool = False
    shaking: asyncio.Task[None] | None = None
    transport: asyncio.BaseTransport | None = None

    def show_out(self) -> None:
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()
        elif self.shaking is not None:
            self.shaking.cancel()


@dataclass
class Gate:
    """Who is connected."""

    visitors: dict[tuple[str, int], _Visitor] = field(default_factory=dict)
    _arrivals: Budgets = field(
        default_factory=lambda: Budgets(burst=CONNECTIONS_BURST, per_sec=CONNECTIONS_PER_SEC)
    )
    _told: Budgets = field(
        default_factory=lambda: Budgets(burst=_TELL_BURST, per_sec=_TELL_PER_SEC)
    )

    def prove(self, client: tuple[str, int] | None) -> None:
        """Note that a registered site is at the other end of this connection."""
        if client is not None and (visitor := self.visitors.get((client[0], client[1]))):
            visitor.is_proven = True

    def turned_away(self, host: str, why: str) -> None:
        """Say why somebody was turned away, unless that was said of the address too often."""
        if self._told.take(neighbourhood(host)):
            log.warning("turned away %s: %s", host, why)

    def enter(self, host: str, port: int) -> _Visitor | None:
        """Return a place for a new connection, or None if there is none."""
        home = neighbourhood(host)
        if not self._arrivals.take(home):
            return None
        neighbours = [it for it in self.visitors.values() if neighbourhood(it.host) == home]
        for crowd, most in (
            (neighbours, MAX_CONNECTIONS_EACH),
            (list(self.visitors.values()), MAX_CONNECTIONS),
        ):
            if len(crowd) >= most and not self._make_room(crowd):
                return None
        visitor = self.visitors[host, port] = _Visitor(host, port)
        return visitor

    def leave(self, visitor: _Visitor) -> None:
        """Free a connection's place."""
        if self.visitors.get((visitor.host, visitor.port)) is visitor:
            del self.visitors[visitor.host, visitor.port]

    def _make_room(self, crowd: list[_Visitor]) -> bool:
        for visitor in crowd:
            if not visitor.is_proven:
                self.leave(visitor)
                visitor.show_out()
                return True
        return False


class GatedServer(uvicorn.Server):
    """A server whose connections come through a gate; its signals are another one's business."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Capture none."""
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen.

        Raises
        ------
        OSError
            If the address cannot be listened on.
        """
        await self.lifespan.startup()
        host, port = self.config.host, self.config.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=256)
        self._listening.setblocking(False)
        self.servers = []
        self._accepting = asyncio.create_task(self._accept(self._listening))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nobody in any more, and let those who are there finish."""
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listening is not None:
            self._listening.close()
        await super().shutdown(sockets)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # out of file descriptors, say
                log.error("no connection can be taken: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_SEC)
                continue
            visitor = self._gate.enter(address[0], address[1])
            if visitor is None:
                self._gate.turned_away(address[0], "too many connections from there")
                connection.close()
                continue
            visitor.shaking = asyncio.create_task(self._shake_hands(connection, visitor))

    async def _shake_hands(self, connection: socket.socket, visitor: _Visitor) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        try:
            visitor.transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Protocol(
                    config=self.config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                    on_lost=lambda: self._gate.leave(visitor),
                ),
                connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=HANDSHAKE_SEC,
            )
        except ssl.SSLError as error:
            self._gate.leave(visitor)
            self._gate.turned_away(visitor.host, _handshake_failure(error))
        except (OSError, asyncio.CancelledError):
            # Hung up, took too long or made room for another.
            self._gate.leave(visitor)
        finally:
            if visitor.transport is None:
                connection.close()


def _handshake_failure(error: ssl.SSLError) -> str:
    reason = error.reason or "handshake failed"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason:
        return "it does not trust this server's certificate (another CA)"
    if "HTTP_REQUEST" in reason:
        return "it spoke plain HTTP; the door speaks TLS only"
    return f"TLS {reason.lower().replace('_', ' ')}"
