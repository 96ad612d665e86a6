"""The only door that hospitals reach: the paths of Flower's Fleet API that they need.

Flower serves its Fleet, Control and Runtime APIs on one port, and only the Fleet API
authenticates its callers: whoever reaches the others can start runs and read logs. This
ASGI wrapper passes the Fleet calls of a registered SuperNode, lets a registered site measure
the way to the server (:mod:`.probe`), and answers 404 to the rest.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime as dt
import json
import logging
import ssl
from collections.abc import Callable, Mapping

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feat_fed.protocol import BAD_SIGNATURE, PROBE_PATH, TOO_OFTEN, UNKNOWN_KEY, WRONG_CLOCK
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

_ACTIVATE = "/v1/fleet/activate-node"
_DETAILS = {
    UNKNOWN_KEY: "The key of this site is not registered.",
    BAD_SIGNATURE: "The request is not signed by the key that it names.",
    TOO_OFTEN: "The server measures the way to a site now and then only.",
    WRONG_CLOCK: "The clocks of this site and the server differ by more than Flower allows.",
}
_TIME_HEADER = TIMESTAMP_HEADER.lower().encode()
_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()

log = logging.getLogger(__name__)


class FleetDoor:
    """Pass the Fleet calls of registered sites alone, and say who was turned away.

    Flower itself verifies the signature over every call; the door only looks up whose key
    it claims to be, so that a stranger gets an answer that says what is wrong.

    Parameters
    ----------
    app
        Flower's SuperLink application.
    site_of
        Gives the name under which a public key (PEM) is registered, or None.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        site_of: Callable[[bytes], str | None],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._site_of = site_of
        self._max_body_bytes = max_body_bytes
        self._probe = Probe()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        caller = scope["client"][0] if scope.get("client") else "?"
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if scope["path"] not in {*FLEET_PATHS, PROBE_PATH} or scope["method"] != "POST":
            log.warning("turned away %s: not a call that a site makes", caller)
            await _answer(send, 404)
        elif not length.isdigit() or int(length) > self._max_body_bytes:
            log.warning("turned away %s: a body over %d bytes", caller, self._max_body_bytes)
            await _answer(send, 413)
        elif (site := self._site_of(_claimed_key(headers))) is None:
            log.warning("turned away %s: its key is not registered", caller)
            # At 401 a SuperNode that is starting ends without a word.
            await _answer(send, 404 if scope["path"] == _ACTIVATE else 401, UNKNOWN_KEY)
        elif skew_sec := _clock_skew_sec(headers):
            log.warning("turned away %s: its clock differs by %.0f s", site, skew_sec)
            await _answer(send, 404 if scope["path"] == _ACTIVATE else 503, WRONG_CLOCK)
        elif scope["path"] == PROBE_PATH:
            await self._measure(scope, receive, send, site)
        else:
            await self._app(scope, self._bounded(receive), _watched(send, site, scope["path"]))

    async def _measure(self, scope: Scope, receive: Receive, send: Send, site: str) -> None:
        try:
            await self._probe(scope, self._bounded(receive), send, site=site)
        except ProbeRefusedError as refusal:
            log.warning("turned away %s: %s", site, _DETAILS[refusal.code].lower().rstrip("."))
            await _answer(send, 429 if refusal.code == TOO_OFTEN else 401, refusal.code)
        except (TimeoutError, ClientDisconnect):
            log.warning("%s hung up, or was too slow, as it measured the way here", site)

    def _bounded(self, receive: Receive) -> Receive:
        """Cut off a body that is larger than its header said (chunked transfer)."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                return {"type": "http.disconnect"}
            return message

        return bounded


class LoggedHandshake(ssl.SSLObject):
    """TLS endpoint that says in one line why a caller did not get in."""

    def do_handshake(self) -> None:
        """Shake hands as the base class does."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.warning("turned away a caller: %s", _handshake_failure(error))
            raise


def _handshake_failure(error: ssl.SSLError) -> str:
    reason = error.reason or "handshake failed"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason:
        return "it does not trust this server's certificate (another CA)"
    if "HTTP_REQUEST" in reason:
        return "it spoke plain HTTP; the door speaks TLS only"
    return f"TLS {reason.lower().replace('_', ' ')}"


def _watched(send: Send, site: str, path: str) -> Send:
    async def watched(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            if path == _ACTIVATE:
                log.warning("turned away %s: its key is in use, or was until a moment ago", site)
            elif message["status"] == 401:
                # The node id of before a restart, or a signature that is not the key's.
                log.warning("%s has to connect anew", site)
        await send(message)

    return watched


def _clock_skew_sec(headers: Mapping[bytes, bytes]) -> float | None:
    """Return by how much a call's time is outside Flower's window; None if it is inside.

    A call without a readable time is Flower's to refuse.
    """
    with contextlib.suppress(ValueError, UnicodeDecodeError, TypeError):
        signed_at = dt.datetime.fromisoformat(headers.get(_TIME_HEADER, b"").decode())
        age_sec = (dt.datetime.now(dt.UTC) - signed_at).total_seconds()
        if not -SYSTEM_TIME_TOLERANCE < age_sec < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            return -age_sec
    return None


def _claimed_key(headers: Mapping[bytes, bytes]) -> bytes:
    with contextlib.suppress(binascii.Error):
        return base64.b64decode(headers.get(_KEY_HEADER, b""), validate=True)
    return b""


async def _answer(send: Send, status: int, code: int | None = None) -> None:
    body = b"" if code is None else json.dumps({"code": code, "detail": _DETAILS[code]}).encode()
    headers = [(b"content-type", b"application/json")] if body else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
