"""A body reaches the application in one piece; one that is cut off does not."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from feat_fed_server.whole_bodies import WholeBodies


def serve(messages: list[Message], scope_type: str = "http") -> list[Message]:
    """Return the messages that the application received."""
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        received.append(await receive())

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_: Message) -> None: ...

    asyncio.run(WholeBodies(app)({"type": scope_type}, receive, send))
    return received


def piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_pieces_are_joined_and_what_follows_them_is_passed_on() -> None:
    hung_up = {"type": "http.disconnect"}
    told = serve([piece(b"ab", more=True), piece(b"", more=True), piece(b"c", more=False), hung_up])
    assert told == [piece(b"abc", more=False), hung_up]


def test_other_protocols_are_left_alone() -> None:
    messages = [piece(b"a", more=True), piece(b"b", more=True)]
    assert serve(list(messages), "lifespan") == messages


def test_a_caller_who_hangs_up_is_not_answered_for_half_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    messages: list[Message] = [piece(b"a", more=True), {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_: Message) -> None: ...

    with pytest.raises(ClientDisconnect):
        asyncio.run(WholeBodies(app)({"type": "http"}, receive, send))
