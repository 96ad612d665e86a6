"""New files to start from: a hospital's, a federation's, a study's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feat_fed.config.commented import commented_yaml
from feat_fed.config.federation import FederationConfig
from feat_fed.config.load import validate
from feat_fed.config.site import SiteConfig
from feat_fed.config.study import StudyConfig

NO_DATA = Path("/path/to/clips")
"""Stands for a folder that nobody has named yet."""

_PATIENCE_SEC = 86_400
"""That a study between machines waits for its hospitals, if it does not say."""

_SITE = "This hospital's own file. It never travels; relative paths count from its folder."
_FEDERATION = (
    "The coordinator's list. `feat-fed provision` makes tls/ and tokens/ beside this file; the "
    "public keys of admitted hospitals lie in sites/NAME.pub beside it."
)
_STUDY = (
    "The study: what the coordinator decides. It travels to the hospitals with each round; "
    "relative paths count from the file's folder."
)


def key_beside(site_file: Path) -> Path:
    """Return where a new site's key goes: by its file's name, so that each site has its own."""
    return site_file.with_suffix(".key")


def site_yaml(
    file: Path,
    *,
    name: str,
    address: str,
    data: Sequence[Path],
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return a new site's file; key and store are named by it, so that two do not share them.

    Parameters
    ----------
    data
        Folders or files of clips; none: a place to fill in.
    sections
        What else is set, such as ``{"limits": {"gb_per_round": 4}}``.

    Raises
    ------
    ConfigError
        If a value is wrong.
    """
    paths = [str(path.resolve()) for path in data] or [str(NO_DATA)]
    stem = file.stem
    tree: dict[str, Any] = {
        "name": name,
        "server": {
            "address": address,
            "ca_certificate": "ca.crt",
            "private_key": key_beside(file).name,
        },
        "data": {"paths": paths},
        "store": "store" if stem == "site" else f"store-{stem}",
    }
    for section, values in (sections or {}).items():
        tree[section] = {**tree.get(section, {}), **values}
    validate(SiteConfig, tree, str(file))
    return commented_yaml(SiteConfig, tree, heading=_SITE)


def federation_yaml(*, address: str, sites: Sequence[str]) -> str:
    """Return a new federation's file.

    Raises
    ------
    ConfigError
        If a value is wrong.
    """
    tree = {"address": address, "sites": list(sites)}
    validate(FederationConfig, tree, "the federation")
    return commented_yaml(FederationConfig, tree, heading=_FEDERATION)


def new_study(
    base: StudyConfig,
    *,
    name: str,
    rounds: int,
    min_sites: int,
    epsilon: float | None,
    secure_aggregation: bool,
) -> dict[str, Any]:
    """Return what a new study sets: what the one that it starts from does, and the answers.

    Parameters
    ----------
    epsilon
        That the study may spend of each patient, by DP-SGD; None: without, or as ``base`` has it.

    Raises
    ------
    ConfigError
        If the parts do not go together.
    """
    tree = _without_nulls(base.model_dump(mode="json", exclude_unset=True))
    sites = {"wait_sec": _PATIENCE_SEC, **tree.get("sites", {}), "minimum": min_sites}
    tree |= {"name": name, "rounds": rounds, "sites": sites}
    privacy = copy.deepcopy(tree.get("privacy", {}))
    if epsilon is not None:
        patient = {"delta": 1e-5, **privacy.get("patient", {}), "epsilon": epsilon}
        privacy["patient"] = patient
    if secure_aggregation:
        privacy.setdefault("secure_aggregation", {})
        if "transfer" in tree:
            tree["transfer"] |= {"up": "fp32"}  # masks are added to exact numbers
    if privacy:
        tree["privacy"] = privacy
        # A weight by clips or patients would tell their number.
        tree["strategy"] = tree.get("strategy", {}) | {"weigh_by": "equal"}
    validate(StudyConfig, tree, "the new study")
    return tree


def study_yaml(tree: Mapping[str, Any], *, base: str) -> str:
    """Return a new study's file; ``base`` is what it was made from."""
    return commented_yaml(StudyConfig, tree, heading=f"{_STUDY} Made from {base}.")


def _without_nulls(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out paths that loading has set to null because there are none."""
    codec = {name: value for name, value in tree.get("codec", {}).items() if value is not None}
    tree.pop("codec", None)
    return tree | ({"codec": codec} if codec else {})
