"""A study under Flower's simulation engine: the same apps, sites as Ray actors."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from feat_fed.cli.console import say
from feat_fed.cli.demo import demo_data
from feat_fed.cli.progress import StudyScreen, followed
from feat_fed.cli.study import require_enough
from feat_fed.config import ComputeConfig, SiteConfig, SiteDataConfig
from feat_fed.errors import ConfigError, FederationError
from feat_fed.log_file import rotating_handler
from feat_fed.processes import split_address
from feat_fed.report.run_store import RunStore
from feat_fed.wire import flower_environment

_CONNECT_TIMEOUT_SEC = 5.0
_PARTITION = "partition-id"


def run_simulation(
    store: RunStore, *, sites: int, data: Path | None, ray_address: str | None
) -> None:
    """Run the store's study with virtual hospitals.

    Raises
    ------
    ConfigError
        If the data make fewer hospitals than asked for.
    FederationError
        If the study fails.
    """
    from feat_fed_server.evaluator_child import EvaluatorChild

    os.environ.update(flower_environment(store.flower))
    configs = virtual_sites(store, demo_data(store, data, hospitals=sites))
    require_enough(store.study, len(configs))
    _log_to_file(store)
    stores = {site.name: site.store for site in configs}
    with (
        EvaluatorChild(store, say) as evaluator,
        StudyScreen(store, stores) as screen,
        followed(screen, store),
    ):
        _simulate(store, configs, ray_address)
        if store.summary().state == "complete":
            evaluator.finish()
    if store.summary().state != "complete":
        say(f"the simulation's log is {store.logs / 'simulation.log'}")
        raise FederationError(store.summary().message or "the simulation ended early")


def virtual_sites(
    store: RunStore, hospitals: Mapping[str, SiteDataConfig]
) -> tuple[SiteConfig, ...]:
    """Give every hospital a site's configuration with a store of its own, and no network."""
    return tuple(
        SiteConfig(
            name=name,
            data=data.model_copy(update={"paths": tuple(path.resolve() for path in data.paths)}),
            store=(store.root / "sites" / name / "store").resolve(),
            codec_weights=store.study.codec.weights,
            compute=ComputeConfig(threads=1),
        )
        for name, data in hospitals.items()
    )


def client_app(sites: Sequence[SiteConfig]) -> ClientApp:
    """Return the ClientApp of all virtual sites; Flower's partition number tells which."""
    from feat_fed_client.app import make_app

    return make_app(lambda context: sites[int(context.node_config[_PARTITION])], is_last=True)


def _simulate(store: RunStore, sites: Sequence[SiteConfig], ray_address: str | None) -> None:
    from flwr.simulation import run_simulation as run_flower

    from feat_fed_server.app import make_app
    from feat_fed_server.roster import ClaimedRoster

    init: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if ray_address is not None:
        init = {"address": ray_address, "log_to_driver": False}
    run_flower(
        server_app=make_app(store.root, ClaimedRoster(tuple(site.name for site in sites))),
        client_app=client_app(sites),
        num_supernodes=len(sites),
        backend_config={
            "init_args": init,
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


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


def _log_to_file(store: RunStore) -> None:
    """Send Flower's and our log lines to the run's folder; the screen is ours."""
    handler = rotating_handler(store.logs / "simulation.log")
    for name in ("flwr", "feat_fed", "feat_fed_server"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
