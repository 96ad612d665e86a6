"""Where a round is computed: the device and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from feat_fed.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` stands for on this machine.

    Raises
    ------
    ConfigError
        If ``cuda`` is asked for and there is none, or the name is none of the three.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            "device is cuda, but torch finds no CUDA device here; set device: cpu (or auto), "
            "or install a driver and a CUDA build of torch"
        )
    return torch.device("cuda", 0) if available and name != "cpu" else torch.device("cpu")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Compute with ``count`` CPU threads inside the block; 0 leaves torch's own choice.

    The order of a sum depends on the thread count, so equal bytes need an equal count.
    """
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
