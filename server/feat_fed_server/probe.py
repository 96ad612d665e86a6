"""What the way to a site carries: bytes in, bytes out, for a registered site that asks.

Nobody else is answered, and nobody can make much traffic with it: a probe moves at most
:data:`~feat_fed.protocol.MAX_PROBE_BYTES` each way within :data:`DEADLINE_SEC`, a site has one
at a time and a few a minute, and all sites together have :data:`MAX_PROBES` at a time.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from feat_fed.protocol import (
    MAX_PROBE_BYTES,
    PROBE_ANSWER_HEADER,
    PROBE_BYTES_HEADER,
    TOO_OFTEN,
    ProbeAnswer,
    Versions,
)

MAX_PROBES = 2
"""At a time, of all sites together."""

PROBES_PER_MINUTE = 12
"""Of a site; one `feat-fed check` takes about six."""

DEADLINE_SEC = 30.0
"""For a probe as a whole, however slowly the other side reads or writes."""

_CHUNK_BYTES = 64 * 1024


class ProbeRefusedError(Exception):
    """A probe that is not answered; ``code`` says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Probe:
    """Answers the probes of sites whose key and signature the caller has verified."""

    def __init__(self) -> None:
        self._at_work: set[str] = set()
        self._began: dict[str, deque[float]] = {}
        self._versions = Versions.installed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, site: str) -> None:
        """Read the body, and send as many bytes as were asked for.

        Raises
        ------
        ProbeRefusedError
            If it is too soon.
        """
        request = Request(scope, receive)
        with self._turn(site):
            async with asyncio.timeout(DEADLINE_SEC):
                received_bytes = 0
                async for part in request.stream():
                    received_bytes += len(part)
                answer = ProbeAnswer(
                    site=site, received_bytes=received_bytes, versions=self._versions
                )
                await _send_random(send, answer, _asked_bytes(request))

    @contextmanager
    def _turn(self, site: str) -> Iterator[None]:
        now, began = time.monotonic(), self._began.setdefault(site, deque())
        while began and began[0] < now - 60:
            began.popleft()
        busy = site in self._at_work or len(self._at_work) >= MAX_PROBES
        if busy or len(began) >= PROBES_PER_MINUTE:
            raise ProbeRefusedError(TOO_OFTEN)
        began.append(now)
        self._at_work.add(site)
        try:
            yield
        finally:
            self._at_work.remove(site)


def _asked_bytes(request: Request) -> int:
    asked = request.headers.get(PROBE_BYTES_HEADER, "0")
    return min(int(asked), MAX_PROBE_BYTES) if asked.isdecimal() and len(asked) < 10 else 0


async def _send_random(send: Send, answer: ProbeAnswer, total_bytes: int) -> None:
    """Send what no box on the way can compress or cache."""
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(total_bytes).encode()),
        (b"cache-control", b"no-store"),
        (PROBE_ANSWER_HEADER.encode(), answer.model_dump_json().encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for first in range(0, total_bytes, _CHUNK_BYTES):
        part = os.urandom(min(_CHUNK_BYTES, total_bytes - first))
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
