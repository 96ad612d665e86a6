"""Versions of everything that matters for reproducing a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from feat_fed import __version__

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
