"""Torch's errors as ours: what a site, and the server, can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from feat_fed.errors import DeviceError, MemoryShortError, TrainingError

_SHORT = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_LOST = ("CUDA error", "CUDA driver error", "NCCL error", "CUBLAS_STATUS", "CUDNN_STATUS")


@contextmanager
def torch_errors() -> Iterator[None]:
    """Raise torch's errors of memory and of devices as ours; leave all others as they are.

    Raises
    ------
    MemoryShortError
        For memory of the machine or of a GPU that is full.
    DeviceError
        For a GPU, or the driver or library under it, that has failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = _known(error)
        if known is None:
            raise
        raise known from error


def is_short_of_memory(error: BaseException) -> bool:
    """Whether less memory would have done, now or after it was freed."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in _SHORT)
    )


def _known(error: BaseException) -> TrainingError | None:
    text = str(error).strip().partition("\n")[0]
    if is_short_of_memory(error):
        return MemoryShortError(
            f"memory is full ({text}); close other programs, or set compute.micro_batch lower or "
            "compute.gradient_checkpointing: true in the site's file"
        )
    if isinstance(error, torch.AcceleratorError) or any(each in text for each in _LOST):
        return DeviceError(
            f"a GPU or its driver has failed ({text}); see `nvidia-smi` and the kernel's log, and "
            "start again once it answers"
        )
    return None
