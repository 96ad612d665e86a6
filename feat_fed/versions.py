"""Versions of everything that matters for reproducing a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from feat_fed import __version__

_DISTRIBUTION = "feat-fed"

MATTERS = (
    *("torch", "numpy", "flwr", "ray", "deepspeed", "monai", "pydicom", "av"),
    *("diffusers", "safetensors", "cryptography"),
)
"""Packages whose version can change a run's numbers or who can take part in it."""


def installed_versions() -> dict[str, str]:
    """Return what is installed here, by name; what is not is left out."""
    found = {"feat-fed": __version__, "python": platform.python_version()}
    for name in MATTERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def requirements_of(extra: str) -> list[Requirement]:
    """Return what this release says that it needs for a role.

    Raises
    ------
    PackageNotFoundError
        If feat-fed is not installed but run from a folder.
    """
    needed = [Requirement(each) for each in requires(_DISTRIBUTION) or ()]
    return [each for each in needed if each.name != _DISTRIBUTION and _is_meant(each, extra)]


def fault_of(requirement: Requirement) -> str | None:
    """Say how what is installed does not fit; None if it does."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return None
    return f"{requirement.name} is {found}, and {requirement.specifier} is needed"


def _is_meant(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": each}) for each in ("", extra))
