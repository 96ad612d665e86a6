"""Flower's SuperNode, with bounds on what a server can make it do.

Flower 1.41 reads a project file out of the bundle before anybody approved it, follows redirects
(to any host, with the site's signature and weights), unpacks compressed answers of any size, and
holds what a message has in memory without a limit. Here the bundle stays closed, redirects and
compression are refused, answers are as large as Flower's chunks make them, and the process may
take half of the machine's memory: what does not fit is an error of its own and not the machine's.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import httpx
import psutil
from flwr.app.user_config import UserConfig
from flwr.supercore.run import Run
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

from feat_fed_client.polls import Polls

MAX_ANSWER_BYTES = 8 * 1024**2
"""Of one call: objects travel in chunks of 5 MiB, and an envelope."""

_MEMORY_SHARE = 0.5


class TooLargeError(ValueError):
    """An answer of the server is larger than any that it has to give."""


class BoundedFleetClient(FleetHttpClient):
    """Calls of the Fleet API whose answers come from the study's server alone and are bounded."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self._client.follow_redirects = False
        self._client.headers["accept-encoding"] = "identity"
        self._client.event_hooks = {"response": [_bound]}


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


def _bound(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise TooLargeError("a compressed answer of the server, which was not asked for")
    if isinstance(response.stream, httpx.SyncByteStream):
        response.stream = _Bounded(response.stream)


def unread_config(fab_file: object, run: Run) -> UserConfig:
    """Stand for what Flower would read from a bundle: our application takes no configuration."""
    return {}


def main() -> None:
    """Run the SuperNode by the command line of Flower's own."""
    limit = int(psutil.virtual_memory().total * _MEMORY_SHARE)
    with contextlib.suppress(ValueError, OSError):  # a lower one is set already
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start_client_internal.get_fused_config_from_fab = unread_config  # type: ignore[attr-defined]
    fleet_http_connection.FleetHttpClient = BoundedFleetClient  # type: ignore[attr-defined]
    start_client_internal.time = Polls()  # type: ignore[assignment,attr-defined]
    flower_supernode()
    # Where its main loop has ended, at an error that it does not try again, Flower 1.41 leaves the
    # process behind with a thread that answers on loopback and does nothing else.
    os._exit(1)


if __name__ == "__main__":
    main()
