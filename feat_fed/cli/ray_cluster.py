"""Ray for a simulation: one of this machine's own, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from feat_fed.config import ResourcesConfig
from feat_fed.errors import ConfigError
from feat_fed.processes import split_address

_CONNECT_TIMEOUT_SEC = 5.0


def require_cluster(address: str) -> None:
    """Raise :class:`ConfigError` if nothing answers there; Ray itself asks for minutes."""
    host, port = split_address(address)
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_SEC).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); start one with "
            f"`ray start --head --port {port}`, or leave --ray-address out"
        ) from error


@contextlib.contextmanager
def connected(
    address: str | None,
    resources: ResourcesConfig,
    *,
    environment: Mapping[str, str],
    log_file: Path,
) -> Iterator[int]:
    """Connect to Ray, or start it, before Flower does, which then takes what it finds.

    Parameters
    ----------
    environment
        Of the workers, which otherwise have that of their node and not of this process.
    log_file
        Of what Ray says of its workers, for which it takes standard output and no other place.

    Yields
    ------
    int
        How many hospitals work at once.

    Raises
    ------
    ConfigError
        If Ray does not take this process in, or no node has room for a hospital.
    """
    import ray

    where: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            # Of what workers without a GPU will see; a hospital without one trains on the CPU.
            warnings.filterwarnings("ignore", message="Tip: In future versions of Ray")
            ray.init(
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}},
                **where,
            )
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise ConfigError(
            f"Ray at {address or 'this machine'} does not take this process in: {error}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own there
    with log_file.open("a") as said, contextlib.redirect_stdout(said):
        try:
            yield _room(ray.nodes(), resources)
        finally:
            ray.shutdown()


def _room(nodes: list[dict[str, Any]], resources: ResourcesConfig) -> int:
    """Return how many hospitals fit, node by node."""
    total, found = 0, []
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        cpus, gpus = has.get("CPU", 0), has.get("GPU", 0)
        by_gpu = gpus / resources.gpus if resources.gpus else cpus
        total += int(min(cpus / resources.cpus, by_gpu))
        found.append(f"{cpus:g} CPUs and {gpus:g} GPUs")
    if not total:
        raise ConfigError(
            f"no node of the cluster has room for a hospital, which takes {resources.cpus} CPUs "
            f"and {resources.gpus:g} GPUs (resources); there are {'; '.join(found)}"
        )
    return total
