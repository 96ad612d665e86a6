"""How much memory this process may still take, has taken, and whom it cost their life."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Return what the machine has left, or what its container has where that is less.

    A container's limit is read from the kernel (cgroup v2): ``memory.max``, less
    ``memory.current``, of which file pages that were not used lately can be given back.
    """
    left = int(psutil.virtual_memory().available)
    # There is no limit ("max"), no such file, or no such kernel.
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit = int((cgroup / "memory.max").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
        idle_pages = int(dict(line.split() for line in lines)["inactive_file"])
        used = int((cgroup / "memory.current").read_text()) - idle_pages
        left = min(left, limit - used)
    return max(0, left)


def peak_bytes(device: torch.device) -> int:
    """Return the most that this process has taken so far.

    Of a GPU's memory what torch has reserved; with the CPU the resident set.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def oom_kills(cgroup: Path = _CGROUP) -> int:
    """Return how many processes of this container (or machine) the kernel killed for memory."""
    for path in (cgroup / "memory.events", Path("/proc/vmstat")):
        with contextlib.suppress(OSError):
            lines = dict(line.split() for line in path.read_text().splitlines())
            if "oom_kill" in lines:
                return int(lines["oom_kill"])
    return 0
