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

from flwr.app.user_config import UserConfig
from flwr.supercore.run import Run
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode

from feat_fed.part_store import store_parts_in
from feat_fed.parts import PartFolder
from feat_fed_client.bounded_calls import BoundedFleetClient, most_message_bytes
from feat_fed_client.polls import Polls, pull_promptly


def unread_config(fab_file: object, run: Run) -> UserConfig:
    """Stand for what Flower would read from a bundle: our application takes no configuration."""
    return {}


def main() -> None:
    """Run the SuperNode by the command line of Flower's own."""
    limit = most_message_bytes()
    with contextlib.suppress(ValueError, OSError):  # a lower one is set already
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    store_parts_in(PartFolder.of_environment())
    start_client_internal.get_fused_config_from_fab = unread_config  # type: ignore[attr-defined]
    fleet_http_connection.FleetHttpClient = BoundedFleetClient  # type: ignore[attr-defined]
    start_client_internal.pull_objects = pull_promptly  # type: ignore[attr-defined]
    start_client_internal.time = Polls()  # type: ignore[assignment,attr-defined]
    flower_supernode()
    # Where its main loop has ended, at an error that it does not try again, Flower 1.41 leaves the
    # process behind with a thread that answers on loopback and does nothing else.
    os._exit(1)


if __name__ == "__main__":
    main()
