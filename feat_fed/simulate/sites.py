"""The configuration of each virtual site, as a hospital's own file would give it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from feat_fed.config import SimulationConfig, SiteConfig, SiteDataConfig, validate
from feat_fed.config.simulation import FOR_ALL
from feat_fed.data.inventory.identity import fix_site_key
from feat_fed.report.run_store import RunStore

_DEFAULTS = SimulationConfig()
_MEMORY_SHARE = 0.9
"""Of its part of a GPU, that a hospital takes; the rest is for the other processes' contexts."""


def virtual_sites(
    store: RunStore, hospitals: Mapping[str, SiteDataConfig], config: SimulationConfig = _DEFAULTS
) -> tuple[SiteConfig, ...]:
    """Give every hospital a site's configuration with a store of its own, and no network.

    What ``config.sites`` says of all, and then of the one, is put over it.

    Raises
    ------
    ConfigError
        If that is no configuration of a site, or speaks of a hospital that there is not.
    """
    config.require_names(tuple(hospitals), store.study)
    sites = []
    for name, data in hospitals.items():
        tree: dict[str, Any] = {
            "name": name,
            "data": {
                **dict(data),
                "paths": tuple(path.resolve() for path in data.paths),
                "rules": dict(data.rules),
                "workers": config.resources.cpus,
            },
            "store": (store.root / "sites" / name / "store").resolve(),
            "codec_weights": store.study.codec.weights,
            "compute": _compute(config),
        }
        for key in (FOR_ALL, name):
            tree = _merged(tree, config.sites.get(key, {}))
        sites.append(validate(SiteConfig, tree, f"sites.{name} of the simulation"))
    return tuple(sites)


def fix_pseudonyms(sites: Iterable[SiteConfig], seed: int) -> None:
    """Give new stores keys that follow from the seed.

    So the same command, and every variation of a sweep, holds out the same patients. In the run's
    folder lie the hospitals' clips, or links to them, as well: no hospital is to be protected from
    who has it.

    Raises
    ------
    DataError
        If a store cannot be written.
    """
    for site in sites:
        fix_site_key(site.store, f"virtual hospital {seed} {site.name}")


def _compute(config: SimulationConfig) -> dict[str, Any]:
    gpus = config.resources.gpus
    if not gpus:
        return {"threads": config.resources.cpus, "device": "cpu"}
    return {
        "threads": config.resources.cpus,
        "device": "cuda",
        "devices": max(1, int(gpus)),
        "memory_share": _MEMORY_SHARE * min(1.0, gpus),
    }


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with ``above`` put over it, mappings key by key at any depth."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(old, value)
        else:
            merged[key] = value
    return merged
