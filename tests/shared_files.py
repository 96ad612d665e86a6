"""Optional real files beside the checkout; a test that needs one skips where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

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


def of_recorded(dtype: torch.dtype) -> float:
    """Return how far a network's output may be from one that was recorded, of its deviation.

    Phases of the timestep are float32 as published, up to 1000, and an ulp in their exp, which
    processors round differently, is 2e-5 of the output in any precision. What is recorded is of
    an AMD processor, and there float64 agrees.
    """
    about = Path("/proc/cpuinfo")
    if not about.exists() or "AuthenticAMD" not in about.read_text():
        return 1e-4
    return 1e-9 if dtype == torch.float64 else 2e-5
