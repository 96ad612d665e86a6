"""The door's answer to a hospital that asks to take part."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from feat_fed.errors import ConfigError, ProtocolError
from feat_fed.joining import MAX_REQUEST_BYTES, JoinAnswer, key_pem, read_public_key
from feat_fed.protocol import BAD_REQUEST, PENDING_KEY, REVOKED_KEY, UNKNOWN_KEY
from feat_fed_server.admissions import Admissions, JoinRefusedError

DEADLINE_SEC = 10.0
"""For the few bytes of a request."""

log = logging.getLogger(__name__)


@dataclass
class JoinDesk:
    """Takes requests to join, and knows which strangers asked before.

    Parameters
    ----------
    admissions
        None: nobody can join, as in the demonstration.
    """

    admissions: Admissions | None
    _seen: object = field(default=None, init=False)
    _codes: dict[bytes, int] = field(default_factory=dict, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, caller: str) -> None:
        """Answer one request.

        Raises
        ------
        JoinRefusedError
            If it is turned away.
        """
        if self.admissions is None:
            raise JoinRefusedError(BAD_REQUEST)
        content = b""
        async with asyncio.timeout(DEADLINE_SEC):
            async for part in Request(scope, receive).stream():
                content += part
                if len(content) > MAX_REQUEST_BYTES:
                    raise JoinRefusedError(BAD_REQUEST)
        try:
            request, state = await run_in_threadpool(self.admissions.receive, content)
        except (ConfigError, OSError) as error:
            log.error("a request to join from %s could not be taken: %s", caller, error)
            raise JoinRefusedError(BAD_REQUEST) from error
        if state == "pending":
            log.warning(
                "%s asks to join from %s; compare its fingerprint (%s) by telephone, then "
                "`feat-fed provision approve`",
                *(request.site, caller, request.fingerprint),
            )
        answer = JoinAnswer(state=state, fingerprint=request.fingerprint)
        body = answer.model_dump_json().encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def code_of(self, public_key: bytes) -> int:
        """Return why a key (PEM) that is not admitted is turned away."""
        if self.admissions is None:
            return UNKNOWN_KEY
        if (seen := self.admissions.stamp()) != self._seen:
            self._codes, self._seen = _known_strangers(self.admissions), seen
        return self._codes.get(public_key, UNKNOWN_KEY)


def _known_strangers(admissions: Admissions) -> dict[bytes, int]:
    """Return the keys (PEM) that wait, or were revoked."""
    try:
        lines = {each.public_key.encode(): PENDING_KEY for each in admissions.all_pending()}
        # Approved, and the study will know in a moment.
        lines |= {each.read_bytes(): PENDING_KEY for each in admissions.keys.glob("*.pub")}
        lines |= {each.public_key.encode(): REVOKED_KEY for each in admissions.revoked()}
        return {key_pem(read_public_key(line)): code for line, code in lines.items()}
    except (ConfigError, ProtocolError, OSError) as error:
        log.error("a key beside the federation's file cannot be read: %s", error)
        return {}
