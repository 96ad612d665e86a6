"""Where clips are drawn and measured."""

from __future__ import annotations

import torch

from feat_fed.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return a device by name: ``auto`` (the first GPU where there is one), ``cpu``, ``cuda:1``.

    Raises
    ------
    ConfigError
        If there is no such GPU here.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if present else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= present:
        raise ConfigError(
            f"device {name} is asked for, and torch finds {present} CUDA devices, counted from 0: "
            "take cpu or auto, or install a driver and a CUDA build of torch"
        )
    return device
