"""The ServerApp of a simulation, a thread that has to end when its process is told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import cast

from flwr.app import Context, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

from feat_fed.report.run_store import RunStore
from feat_fed_server.app import run_study
from feat_fed_server.roster import Roster


class StoppableGrid:
    """Flower's grid, which the round loop asks several times a second, until it is stopped."""

    def __init__(self, grid: Grid, stopped: threading.Event) -> None:
        self._grid = grid
        self._stopped = stopped

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the connected nodes."""
        return self._open().get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and return their ids."""
        return self._open().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._open().pull_messages(message_ids)

    def _open(self) -> Grid:
        if self._stopped.is_set():
            raise SystemExit  # which ends a thread without a word
        return self._grid


@contextlib.contextmanager
def stoppable_app(store: RunStore, roster: Roster) -> Iterator[ServerApp]:
    """Yield the ServerApp of a run's study; it ends with the block.

    Flower waits for its thread before the process may end, and a round may last for hours.
    """
    stopped, app = threading.Event(), ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(cast(Grid, StoppableGrid(grid, stopped)), RunStore(store.root), roster)

    try:
        yield app
    finally:
        stopped.set()
