"""The only door that hospitals reach: the paths of Flower's Fleet API that they need.

Flower serves its Fleet, Control and Runtime APIs on one port, and only the Fleet API
authenticates its callers: whoever reaches the others can start runs and read logs. This
ASGI wrapper passes the Fleet calls that a registered SuperNode has signed, lets a registered
site measure the way to the server (:mod:`.probe`) and a hospital with a token ask to take part
(:mod:`.join_desk`), and answers 404 to the rest. Of what a stranger sends no body is read but
that of a request to join.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feat_fed.joining import MAX_REQUEST_BYTES
from feat_fed.protocol import (
    BAD_SIGNATURE,
    JOIN_PATH,
    PENDING_KEY,
    PROBE_PATH,
    REVOKED_KEY,
    TOO_OFTEN,
    UNKNOWN_KEY,
    WRONG_CLOCK,
)
from feat_fed_server.admissions import JoinRefusedError
from feat_fed_server.budgets import Budgets, neighbourhood
from feat_fed_server.gate import Gate
from feat_fed_server.join_desk import JoinDesk
from feat_fed_server.link_meter import Leg, LinkMeter, Transfer
from feat_fed_server.probe import Probe, ProbeRefusedError

FLEET_PATHS = frozenset(
    f"/v1/fleet/{call}"
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""What a SuperNode with a key of its own calls (Flower 1.41)."""

# Flower sends objects in chunks of 5 MiB; a request is one chunk and its envelope.
MAX_BODY_BYTES = 8 * 1024**2

_PART_BYTES = 64 * 1024
"""Of an answer, that are given to the line at once."""

REQUEST_SEC = 900.0
"""For a site's request and its answer: 8 MiB at some 75 kbit/s."""

STRANGERS_BURST, STRANGERS_PER_SEC = 60.0, 1.0
"""Requests from one address that are not a registered site's."""
JOIN_COST = 6.0
"""Of a request to join, in those."""
SITE_BURST, SITE_PER_SEC = 2000.0, 200.0
"""Requests of one site; a fast line takes some 100 objects a second."""

_ACTIVATE = "/v1/fleet/activate-node"
_LEGS: Mapping[str, Leg] = {"/v1/fleet/pull-object": "down", "/v1/fleet/push-object": "up"}
_DETAILS = {
    UNKNOWN_KEY: "The key of this site is not registered.",
    PENDING_KEY: "The key of this site waits for the coordinator's approval.",
    REVOKED_KEY: "The key of this site was revoked.",
    BAD_SIGNATURE: "The request is not signed by the key that it names.",
    TOO_OFTEN: "The server measures the way to a site now and then only.",
    WRONG_CLOCK: "The clocks of this site and the server differ by more than Flower allows.",
}
_REASONS = {
    UNKNOWN_KEY: "its key is not registered",
    PENDING_KEY: "its key waits for approval",
    REVOKED_KEY: "its key was revoked",
}
_TIME_HEADER = TIMESTAMP_HEADER.lower().encode()
_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
_SIGNATURE_HEADER = FLEET_HTTP_SIGNATURE_HEADER.lower().encode()

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Call:
    """A request's head."""

    scope: Scope
    headers: Mapping[bytes, bytes]
    caller: str

    @classmethod
    def of(cls, scope: Scope) -> _Call:
        caller = scope["client"][0] if scope.get("client") else "?"
        return cls(scope, dict(scope["headers"]), caller)

    @property
    def path(self) -> str:
        """As it was sent: what is written in another way is another path."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        return raw.decode("ascii", "replace")

    @property
    def is_known(self) -> bool:
        """Whether it is a call that a site or a hospital makes."""
        known = self.path in FLEET_PATHS or self.path in (PROBE_PATH, JOIN_PATH)
        return known and self.scope["method"] == "POST" and not self.scope.get("query_string")

    @property
    def max_body_bytes(self) -> int:
        return MAX_REQUEST_BYTES if self.path == JOIN_PATH else MAX_BODY_BYTES

    @property
    def is_too_large(self) -> bool:
        length = self.headers.get(b"content-length", b"0")
        return not length.isdigit() or len(length) > 12 or int(length) > self.max_body_bytes

    @property
    def key(self) -> bytes:
        """The public key (PEM) that it claims to be signed by."""
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(self.headers.get(_KEY_HEADER, b""), validate=True)
        return b""

    @property
    def skew_sec(self) -> float | None:
        """By how much its time is outside Flower's window; None if it is inside.

        A call without a readable time is not signed, which is found out later.
        """
        with contextlib.suppress(ValueError, UnicodeDecodeError, TypeError):
            signed_at = dt.datetime.fromisoformat(self.headers.get(_TIME_HEADER, b"").decode())
            age_sec = (dt.datetime.now(dt.UTC) - signed_at).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age_sec < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                return -age_sec
        return None

    @property
    def is_signed(self) -> bool:
        """Whether the key that it names has signed its time, as Flower wants it."""
        with contextlib.suppress(ValueError, KeyError, binascii.Error):
            signature = base64.b64decode(self.headers[_SIGNATURE_HEADER], validate=True)
            return verify_signature(
                bytes_to_public_key(self.key), self.headers[_TIME_HEADER], signature
            )
        return False


class FleetDoor:
    """Pass the Fleet calls of registered sites alone, and say who was turned away.

    Parameters
    ----------
    app
        Flower's SuperLink application; it verifies each call again.
    site_of
        Gives the name under which a public key (PEM) is registered, or None.
    desk
        Takes requests to join.
    gate
        Is told which connections are a site's.
    meter
        Counts what goes over the wire.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        site_of: Callable[[bytes], str | None],
        desk: JoinDesk | None = None,
        gate: Gate | None = None,
        meter: LinkMeter | None = None,
    ) -> None:
        self._app = app
        self._site_of = site_of
        self._desk = desk or JoinDesk(None)
        self._gate = gate or Gate()
        self._meter = meter
        self._probe = Probe()
        self._strangers = Budgets(burst=STRANGERS_BURST, per_sec=STRANGERS_PER_SEC)
        self._sites = Budgets(burst=SITE_BURST, per_sec=SITE_PER_SEC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        call = _Call.of(scope)
        if not call.is_known:
            await self._turn_away(call, send, 404, "not a call that a site makes")
        elif call.is_too_large:
            await self._turn_away(call, send, 413, f"a body over {call.max_body_bytes} bytes")
        elif call.path == JOIN_PATH:
            await self._join(call, receive, send)
        elif (site := self._site_of(call.key)) is None:
            code = self._desk.code_of(call.key)
            # At 401 a SuperNode that is starting ends without a word.
            status = 404 if call.path == _ACTIVATE else 401
            await self._turn_away(call, send, status, _REASONS[code], code)
        elif not call.is_signed:
            status = 404 if call.path == _ACTIVATE else 401
            why = f"it claims to be {site} and has not signed with its key"
            await self._turn_away(call, send, status, why, BAD_SIGNATURE)
        else:
            self._gate.prove(scope.get("client"))
            await self._serve(call, receive, send, site)

    async def _serve(self, call: _Call, receive: Receive, send: Send, site: str) -> None:
        """Answer a site."""
        if skew_sec := call.skew_sec:
            self._gate.turned_away(site, f"its clock differs by {skew_sec:.0f} s")
            await _refuse(send, 404 if call.path == _ACTIVATE else 503, WRONG_CLOCK)
        elif not self._sites.take(site):
            self._gate.turned_away(site, f"more than {SITE_PER_SEC:.0f} requests a second")
            await _refuse(send, 503)
        elif call.path == PROBE_PATH:
            await self._measure(call, receive, send, site)
        else:
            await self._pass(call, receive, send, site)

    async def _turn_away(
        self, call: _Call, send: Send, status: int, why: str, code: int | None = None
    ) -> None:
        """Answer a stranger and hang up; one who comes too often is not told why."""
        if self._strangers.take(neighbourhood(call.caller)):
            self._gate.turned_away(call.caller, why)
            await _refuse(send, status, code)
        else:
            self._gate.turned_away(call.caller, "too many requests that are no site's")
            await _refuse(send, 503)

    async def _join(self, call: _Call, receive: Receive, send: Send) -> None:
        if not self._strangers.take(neighbourhood(call.caller), JOIN_COST):
            self._gate.turned_away(call.caller, "too many requests that are no site's")
            await _refuse(send, 503, TOO_OFTEN)
            return
        try:
            await self._desk(call.scope, receive, send, caller=call.caller)
        except JoinRefusedError as refusal:
            self._gate.turned_away(call.caller, f"it asks to join, and: {refusal}")
            await _refuse(send, 409, refusal.code, str(refusal))
        except (TimeoutError, ClientDisconnect):
            self._gate.turned_away(call.caller, "it asks to join, and hung up or was too slow")
            await _refuse(send, 408)

    async def _measure(self, call: _Call, receive: Receive, send: Send, site: str) -> None:
        body = _Body(receive)
        answer = _Answer(send, site, call.path, body)
        try:
            await self._probe(call.scope, body, answer, site=site)
        except ProbeRefusedError as refusal:
            why = _DETAILS[refusal.code].lower().rstrip(".")
            self._gate.turned_away(site, why)
            await _refuse(send, 429, refusal.code)
        except (TimeoutError, ClientDisconnect):
            log.warning("%s hung up, or was too slow, as it measured the way here", site)
            if not answer.has_begun:
                await _refuse(send, 413 if body.is_too_large else 408)

    async def _pass(self, call: _Call, receive: Receive, send: Send, site: str) -> None:
        """Let Flower answer; whatever becomes of it, a SuperNode is never answered 500."""
        leg = _LEGS.get(call.path)
        transfer = self._meter.begin(site, leg) if self._meter and leg else None
        body = _Body(receive, transfer if leg == "up" else None)
        answer = _Answer(send, site, call.path, body, transfer if leg == "down" else None)
        try:
            async with asyncio.timeout(REQUEST_SEC):
                await self._app(call.scope, body, answer)
        except TimeoutError:
            log.warning("%s was too slow: its call took over %.0f s", site, REQUEST_SEC)
        except ClientDisconnect:
            log.info("%s hung up in the middle of a call", site)
        except Exception:
            log.exception("a call of %s failed", site)
        finally:
            if transfer is not None:
                transfer.end()
        if not answer.has_begun:
            await _refuse(send, 413 if body.is_too_large else 503)


@dataclass
class _Body:
    """A request's body, cut off where it is larger than its header said (chunked transfer)."""

    receive: Receive
    transfer: Transfer | None = None
    is_too_large: bool = False
    has_hung_up: bool = False
    _seen_bytes: int = field(default=0, init=False)

    async def __call__(self) -> Message:
        message = await self.receive()
        self.has_hung_up |= message["type"] == "http.disconnect"
        self._seen_bytes += (size := len(message.get("body", b"")))
        if self._seen_bytes > MAX_BODY_BYTES:
            self.is_too_large = True
            return {"type": "http.disconnect"}
        if self.transfer is not None:
            self.transfer.add(size)
            if not message.get("more_body"):
                self.transfer.end()
        return message


@dataclass
class _Answer:
    """Flower's answer on its way to a site.

    At 500 a SuperNode of Flower 1.41 stands still for ever; what it tries again is 503.
    """

    send: Send
    site: str
    path: str
    body: _Body
    transfer: Transfer | None = None
    has_begun: bool = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            if message["status"] == 500:
                self._tell_failure()
                message = {**message, "status": 503}
            elif message["status"] >= 400:
                self._tell(message["status"])
        for part in _parts(message):
            await self.send(part)
            if self.transfer is not None:
                self.transfer.add(len(part.get("body", b"")))

    def _tell_failure(self) -> None:
        if self.body.has_hung_up:
            log.info("%s hung up in the middle of a call", self.site)
        else:
            log.error("Flower could not answer a call of %s (%s)", self.site, self.path)

    def _tell(self, status: int) -> None:
        if self.path == _ACTIVATE:
            log.warning("turned away %s: its key is in use, or was until a moment ago", self.site)
        elif status == 401:
            # The node id of before a restart.
            log.warning("%s has to connect anew", self.site)


def _parts(message: Message) -> Iterator[Message]:
    """Cut a part of an answer into ones that are sent as fast as the line takes them.

    uvicorn takes an answer of any size at once and, some seconds after its end, hangs up: over a
    slow line, before it has arrived.
    """
    body: bytes = message.get("body", b"")
    more = range(0, len(body) - _PART_BYTES, _PART_BYTES)
    for start in more:
        part = body[start : start + _PART_BYTES]
        yield {"type": message["type"], "body": part, "more_body": True}
    yield {**message, "body": body[len(more) * _PART_BYTES :]} if more else message


async def _refuse(send: Send, status: int, code: int | None = None, detail: str = "") -> None:
    """Answer and hang up: a body that is not read would hold the connection."""
    told = {"code": code, "detail": detail or _DETAILS.get(code or 0, "")}
    body = b"" if code is None else json.dumps(told).encode()
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
