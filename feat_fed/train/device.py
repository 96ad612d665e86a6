"""Where a round is computed: the device, its memory and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from feat_fed.config import ComputeConfig
from feat_fed.errors import ConfigError


def resolve_device(compute: ComputeConfig, rank: int = 0) -> torch.device:
    """Return the device of one of the processes that train together.

    The first one's is also where clips are encoded and weights are scored.

    Raises
    ------
    ConfigError
        If a GPU is asked for that is not there, or GPUs are named and a CPU is to be used.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if compute.device == "cuda" and not present:
        raise ConfigError(
            "compute.device is cuda, but torch finds no CUDA device here; set device: cpu (or "
            "auto), or install a driver and a CUDA build of torch"
        )
    named = None if isinstance(compute.devices, int) else compute.devices
    if compute.device == "cpu" or not present:
        if named is not None:
            raise ConfigError(
                f"compute.devices names the GPUs {list(named)}, but training runs on the CPU "
                f"(device is {compute.device}, and torch finds {present} GPUs); give the number of "
                "processes instead"
            )
        return torch.device("cpu")
    wanted = named or tuple(range(compute.num_devices))
    if max(wanted) >= present:
        raise ConfigError(
            f"compute.devices asks for {compute.num_devices} GPUs, the last of them number "
            f"{max(wanted)}, and torch finds {present}, counted from 0"
        )
    return torch.device("cuda", wanted[rank])


def threads_of(compute: ComputeConfig) -> int:
    """Return the CPU threads of a process: all cores shared out where the site does not say.

    0, torch's own choice, for one process alone.
    """
    if compute.threads or compute.num_devices == 1:
        return compute.threads
    return max(1, torch.get_num_threads() // compute.num_devices)


@contextmanager
def on_device(device: torch.device, *, memory_share: float) -> Iterator[None]:
    """Make a GPU the current one, and take no more than a share of its free memory.

    Beyond it, allocations fail as if the GPU were full. For a CPU the block changes nothing.
    """
    if device.type == "cpu":
        yield
        return
    with torch.cuda.device(device):
        torch.cuda.empty_cache()
        free_bytes, all_bytes = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(memory_share * free_bytes / all_bytes, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
