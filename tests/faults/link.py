"""A way between hospitals and server that can be cut, frozen and slowed: a TCP proxy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Literal

_CHUNK_BYTES = 16_384

State = Literal["open", "cut", "frozen"]


class Link:
    """Forwards a port of this machine to another one, from a thread of its own.

    ``cut`` hangs up and refuses; ``frozen`` keeps connections and moves nothing, as a firewall
    that forgot them; ``bytes_per_sec`` bounds each connection.
    """

    def __init__(self, port: int, to_port: int) -> None:
        self._port = port
        self._to_port = to_port
        self._state: State = "open"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.bytes_per_sec: float | None = None
        self.bytes_until_cut: int | None = None
        """Hang up once, after so many more bytes towards the server."""

    def start(self) -> None:
        self._thread.start()
        self._do(self._listen())

    def stop(self) -> None:
        self._do(self._close())
        self._do(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, state: State) -> None:
        self._state = state
        self._do(self._close() if state == "cut" else self._listen())

    def _do(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._hang_up()

    async def _end_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _hang_up(self) -> None:
        for each in self._writers:
            each.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            inner = await asyncio.open_connection("127.0.0.1", self._to_port)
            with self._tracked(writer), self._tracked(inner[1]):
                await asyncio.gather(
                    self._pump(reader, inner[1], up=True), self._pump(inner[0], writer, up=False)
                )
        writer.transport.abort()

    @contextlib.contextmanager
    def _tracked(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            while self._state == "frozen":
                await asyncio.sleep(0.05)
            if self.bytes_per_sec is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_sec)
            writer.write(chunk)
            await writer.drain()
            if up and self.bytes_until_cut is not None:
                self.bytes_until_cut -= len(chunk)
                if self.bytes_until_cut <= 0:
                    self.bytes_until_cut = None
                    self._hang_up()
        writer.transport.abort()
