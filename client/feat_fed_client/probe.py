"""Measure the way to the study's server, by what its door offers to a registered site."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self, cast

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from feat_fed.config import ServerLinkConfig
from feat_fed.errors import ProtocolError
from feat_fed.protocol import (
    MAX_PROBE_BYTES,
    PROBE_ANSWER_HEADER,
    PROBE_BYTES_HEADER,
    PROBE_PATH,
    ProbeAnswer,
    parse_header,
    refusal_code,
)

_TIMEOUT_SEC = 40.0
_FIRST_BYTES = 256 * 1024
_AIM_SEC = 2.0
_MAX_REFUSAL_BYTES = 4096
_CHUNK_BYTES = 64 * 1024
_SHORTEST_SEC = 1e-3


@dataclass(frozen=True)
class Answered:
    """What came back for one request."""

    status: int
    code: int | None
    """Of a refusal by the door (:mod:`feat_fed.protocol`)."""
    answer: ProbeAnswer | None
    ahead_sec: float | None
    """By how much this machine's clock is ahead of the server's, to about a second."""
    seconds: float
    """Until the first byte of the answer."""
    down_sec: float
    """From there to the last."""


class Prober:
    """One connection to the door, for some requests; use it in a ``with`` block.

    The site's key must have been checked (:func:`feat_fed_client.keys.check_site_key`).
    """

    def __init__(self, link: ServerLinkConfig) -> None:
        key = serialization.load_ssh_private_key(link.private_key.read_bytes(), None)
        self._key = cast(ec.EllipticCurvePrivateKey, key)
        self._client = httpx.Client(
            base_url=f"https://{link.address}",
            verify=ssl.create_default_context(cafile=str(link.ca_certificate)),
            timeout=_TIMEOUT_SEC,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, *, up_bytes: int = 0, down_bytes: int = 0) -> Answered:
        """Post bytes and get bytes.

        Raises
        ------
        httpx.TransportError
            If the connection fails.
        """
        headers = self._signed() | {
            PROBE_BYTES_HEADER: str(down_bytes),
            "content-length": str(up_bytes),
        }
        sent_at, started_sec = _now(), time.perf_counter()
        with self._client.stream(
            "POST", PROBE_PATH, headers=headers, content=_random(up_bytes)
        ) as response:
            first_sec = time.perf_counter()
            at = sent_at + dt.timedelta(seconds=(first_sec - started_sec) / 2)
            refusal, got_bytes = b"", 0
            for part in response.iter_bytes():
                got_bytes += len(part)
                if got_bytes > MAX_PROBE_BYTES:
                    break
                if response.status_code != 200 and got_bytes <= _MAX_REFUSAL_BYTES:
                    refusal += part
        return Answered(
            status=response.status_code,
            code=refusal_code(refusal),
            answer=_answer(response),
            ahead_sec=_ahead_sec(response, at),
            seconds=first_sec - started_sec,
            down_sec=time.perf_counter() - first_sec,
        )

    def up_bytes_per_sec(self, *, idle_sec: float) -> float | None:
        """Measure the way up; ``idle_sec`` is what a request without bytes takes.

        None where the door does not say that all came.
        """

        def rate(size_bytes: int) -> float | None:
            it = self.ask(up_bytes=size_bytes)
            came = it.answer is not None and it.answer.received_bytes == size_bytes
            return size_bytes / max(it.seconds - idle_sec, _SHORTEST_SEC) if came else None

        return _measured(rate)

    def down_bytes_per_sec(self) -> float | None:
        """Measure the way down; None where the door sends nothing."""

        def rate(size_bytes: int) -> float | None:
            it = self.ask(down_bytes=size_bytes)
            return size_bytes / max(it.down_sec, _SHORTEST_SEC) if it.answer else None

        return _measured(rate)

    def _signed(self) -> dict[str, str]:
        """Return headers as a SuperNode's: Flower signs the time and nothing else."""
        now = _now().isoformat()
        signature = sign_message(self._key, now.encode("ascii"))
        key = public_key_to_bytes(self._key.public_key())
        return {
            FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(key).decode(),
            TIMESTAMP_HEADER: now,
            FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        }


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _measured(rate: Callable[[int], float | None]) -> float | None:
    """Take a small piece, and then one that lasts long enough to tell."""
    first = rate(_FIRST_BYTES)
    if first is None or (size_bytes := min(MAX_PROBE_BYTES, int(first * _AIM_SEC))) < _FIRST_BYTES:
        return first
    return rate(size_bytes) or first


def _random(total_bytes: int) -> Iterator[bytes]:
    for first in range(0, total_bytes, _CHUNK_BYTES):
        yield os.urandom(min(_CHUNK_BYTES, total_bytes - first))


def _answer(response: httpx.Response) -> ProbeAnswer | None:
    with contextlib.suppress(ProtocolError):
        if response.status_code == 200:
            return parse_header(ProbeAnswer, response.headers.get(PROBE_ANSWER_HEADER, ""))
    return None


def _ahead_sec(response: httpx.Response, at: dt.datetime) -> float | None:
    """Compare with the Date header, which is cut to whole seconds: the middle of one is taken."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        theirs = parsedate_to_datetime(response.headers["date"]) + dt.timedelta(seconds=0.5)
        return (at - theirs).total_seconds()
    return None
