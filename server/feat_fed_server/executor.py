"""The server's executor: it takes the ServerApp's task from our SuperLink and runs it in a child.

Flower's own starts a Python for it, which has 30 s to import the round loop and torch. On a busy
machine that is not enough, and the study does not begin (:mod:`feat_fed.tasks`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from queue import Queue

from flwr.supercore.constant import TaskType
from flwr.superlink.runtime import run_serverapp

import feat_fed_server.app  # noqa: F401  Flower loads it by name, in a child
from feat_fed.tasks import in_child, taken_tasks

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Run as ``python -m feat_fed_server HOST:PORT SECRET_FILE``."""
    address, secret_file = arguments
    secret = Path(secret_file).read_bytes()
    for task in taken_tasks(address, secret, [TaskType.SERVER_APP]):
        # The server, too, notices one that failed, and begins another run.
        if how := in_child(lambda: _run(address, task.token)):  # noqa: B023
            log.error("the ServerApp's process ended with %s", how)


def _run(address: str, token: str) -> None:
    # Of what is printed nothing is sent to the SuperLink: nobody fills this queue.
    printed = Queue[str | None]()
    with contextlib.suppress(SystemExit):
        run_serverapp(address, printed, token, insecure=True)
