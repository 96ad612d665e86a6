"""Request bodies in one piece.

A body of 5 MiB comes in a hundred pieces, and each layer of Flower's application starts tasks for
every piece, which costs more than what is in them.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class WholeBodies:
    """Wait for a request's body before the application is called.

    Whoever stands before this bounds the body's size and the time that it takes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything else is passed on as it is."""
        if scope["type"] == "http":
            receive = _after(await _whole(receive), receive)
        await self._app(scope, receive, send)


async def _whole(receive: Receive) -> Message:
    pieces = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return message  # the caller hung up
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return {"type": "http.request", "body": b"".join(pieces), "more_body": False}


def _after(first: Message, receive: Receive) -> Receive:
    """Return a function that gives one message first."""
    left = [first]

    async def after() -> Message:
        return left.pop() if left else await receive()

    return after
