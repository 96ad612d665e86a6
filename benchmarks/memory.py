"""How much memory a job needs at its peak, over what is held before it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""proc(5): resets the peak of the resident set to what is resident now."""


def added_bytes(job: Callable[[], object], device: str) -> int | None:
    """Return the peak of a run of ``job`` over what was held before it.

    It should have run before, so that what stays is there: gradients, caches. On a GPU these
    are bytes of its allocator, on a CPU of the process's resident set; None where Linux does
    not tell.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        return None
    _give_back_freed()
    _CLEAR.write_text(_RESET_PEAK)
    resident = _kilobytes("VmRSS")
    job()
    return 1024 * (_kilobytes("VmHWM") - resident)


def _give_back_freed() -> None:
    """Let glibc return what is freed, which would otherwise count as held before the job."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _kilobytes(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
