"""Optional real files beside the checkout; a test that needs one skips where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_BESIDE_CHECKOUT = Path(__file__).resolve().parents[1].parent / "shared"


def media(relative: str = "") -> Path:
    """Return a real clip or folder of clips (``FEAT_FED_MEDIA`` or ``../shared/media``)."""
    root = Path(os.environ.get("FEAT_FED_MEDIA", _BESIDE_CHECKOUT / "media"))
    return _or_skip(root / relative, "real media: set FEAT_FED_MEDIA to a folder that has it")


def oracle(relative: str = "") -> Path:
    """Return an output of the published implementation (``FEAT_FED_ORACLE`` or ``../shared``)."""
    root = Path(os.environ.get("FEAT_FED_ORACLE", _BESIDE_CHECKOUT / "oracle"))
    return _or_skip(root / relative, "outputs of the published code: set FEAT_FED_ORACLE")


def _or_skip(path: Path, what: str) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is absent ({what})")
    return path
