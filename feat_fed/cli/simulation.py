"""A study under Flower's simulation engine: the same apps, sites as Ray actors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from feat_fed.atomic import write_bytes_atomically
from feat_fed.cli.console import console, say
from feat_fed.cli.data import tell_counts
from feat_fed.cli.hospitals_table import hospitals_table
from feat_fed.cli.progress import StudyScreen, followed
from feat_fed.cli.ray_cluster import connected
from feat_fed.cli.simulated_failures import RehearsingApp
from feat_fed.cli.simulated_server import stoppable_app
from feat_fed.cli.study import require_enough
from feat_fed.config import ClipConfig, ResourcesConfig, SimulationConfig, SiteConfig, dump_yaml
from feat_fed.config.load import load_simulation
from feat_fed.data import Manifest, scan
from feat_fed.data.inventory.manifest import FILE
from feat_fed.errors import FederationError, RunError
from feat_fed.log_file import rotating_handler
from feat_fed.report.data_summary import DataSummary
from feat_fed.report.run_store import RunStore
from feat_fed.simulate import fix_pseudonyms, hospitals_of, virtual_sites
from feat_fed.wire import flower_environment

_PARTITION = "partition-id"
_MOST_DEATHS = 2
"""Of processes, by one message, until the site has failed."""
SETTINGS = "simulation.yaml"
"""In a run's folder: what its hospitals were made by."""
_MAY_CHANGE = ("resources", "sites", "failures")
"""What may be another when a run is gone on with; the hospitals stay who they are."""


def run_simulation(store: RunStore, config: SimulationConfig, *, ray_address: str | None) -> None:
    """Run the store's study with virtual hospitals.

    Raises
    ------
    ConfigError
        If the settings do not go with the study or the hospitals, or Ray has no room for one.
    DataError
        If the data make fewer hospitals than asked for.
    RunError
        If the run has other hospitals.
    FederationError
        If the study fails.
    """
    from feat_fed_server.evaluator_child import EvaluatorChild

    os.environ.update(flower_environment(store.flower))
    sites = hospitals_of_run(store, config)
    require_enough(store.study, len(sites))
    if (summary := DataSummary.read(store.root)) is not None:
        console.print(hospitals_table(summary))
    _log_to_file(store)
    stores = {site.name: site.store for site in sites}
    with (
        connected(
            ray_address,
            config.resources,
            environment=flower_environment(store.flower),
            log_file=store.logs / "ray.log",
        ) as room,
        EvaluatorChild(store, say) as evaluator,
        StudyScreen(store, stores) as screen,
        followed(screen, store),
    ):
        say(f"{len(sites)} virtual hospitals, of which {min(room, len(sites))} work at once")
        _simulate(store, sites, config)
        if store.summary().state == "complete":
            evaluator.finish()
    tell_left_out(sites, store.study.clips)
    if store.summary().state != "complete":
        say(f"the simulation's log is {store.logs / 'simulation.log'}")
        raise FederationError(store.summary().message or "the simulation ended early")


def hospitals_of_run(store: RunStore, config: SimulationConfig) -> tuple[SiteConfig, ...]:
    """Return the configurations of a run's virtual hospitals, whose data are there then."""
    _require_same_hospitals(store, config)
    with console.status("finding out whose clips there are"):
        hospitals = hospitals_of(store, config)
    write_bytes_atomically(store.root / SETTINGS, dump_yaml(config).encode())
    sites = virtual_sites(store, hospitals, config)
    fix_pseudonyms(sites, store.study.seed)
    return sites


def tell_left_out(sites: Iterable[SiteConfig], clips: ClipConfig) -> None:
    """Say which clips hospitals have looked at and not used, as a client's screen would."""
    for site in sites:
        if not (site.store / FILE).exists():
            continue  # it was never asked
        with Manifest(site.store, alone="wait") as manifest:
            inventory = scan(site.data, manifest=manifest, clips=clips)
        if inventory.excluded or inventory.waiting:
            tell_counts(site.name, inventory)


def client_app(sites: Sequence[SiteConfig], config: SimulationConfig) -> ClientApp:
    """Return the ClientApp of all virtual sites; Flower's partition number tells which."""
    from feat_fed_client.app import make_app

    def site_of(context: Context) -> SiteConfig:
        return sites[int(context.node_config[_PARTITION])]

    app = make_app(site_of, is_last=True)
    return RehearsingApp(app, site_of, config.failures) if config.failures else app


def _simulate(store: RunStore, sites: Sequence[SiteConfig], config: SimulationConfig) -> None:
    from flwr.simulation import run_simulation as run_flower

    from feat_fed_server.roster import SimulatedRoster

    roster = SimulatedRoster(tuple(site.name for site in sites))
    with stoppable_app(store, roster) as server_app:
        run_flower(
            server_app=server_app,
            client_app=client_app(sites, config),
            num_supernodes=len(sites),
            backend_config={"client_resources": _actor_options(config.resources)},
        )


def _actor_options(resources: ResourcesConfig) -> dict[str, Any]:
    """Return Ray's options of an actor.

    A worker whose process dies is started anew, and the message goes to it again, as a site's
    executor does it. Flower's pool would go on with the dead one, and fail all that it is given.
    """
    return {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "max_restarts": -1,
        "max_task_retries": _MOST_DEATHS,
    }


def _require_same_hospitals(store: RunStore, config: SimulationConfig) -> None:
    """Raise :class:`RunError` where the run has other ones; forget those that it never got to."""
    path = store.root / SETTINGS
    if not path.exists():
        DataSummary.remove(store.root)
        return
    before = load_simulation(path)
    for key in SimulationConfig.model_fields:
        old, new = getattr(before, key), getattr(config, key)
        if old != new and key not in _MAY_CHANGE:
            raise RunError(
                f"{store.root} is a run with other hospitals ({key} was {old!s}, and is "
                f"{new!s} now): give this run another name with --run, or change it back"
            )


def _log_to_file(store: RunStore) -> None:
    """Send Flower's and our log lines to the run's folder; the screen is ours."""
    handler = rotating_handler(store.logs / "simulation.log")
    for name in ("flwr", "feat_fed", "feat_fed_server"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
