"""How many clips pass through the network at once: found by a dry step before training.

On a GPU the step is tried at full size and halved until it fits. On a CPU nothing says that
memory is short (the kernel kills the process), so one clip's step is measured, and what many
would need is compared with what the machine, or its container, has left.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from feat_fed.config import TrainingConfig
from feat_fed.errors import MemoryShortError
from feat_fed.train.engine import LossFunction
from feat_fed.train.faults import is_short_of_memory
from feat_fed.train.memory import available_bytes

_log = logging.getLogger(__name__)

LossOfClips = Callable[[int], LossFunction]
"""Takes a number of clips, and gives a loss of that many that look like the site's."""


def fitting_micro_batch(
    model: nn.Module, loss_of: LossOfClips, *, wanted: int, copies: float, share: float
) -> int:
    """Return the number of clips at once, at most ``wanted``, that fits where the model lies.

    The model's weights and gradients are as they were afterwards. A smaller number than
    wanted is logged.

    Parameters
    ----------
    copies
        Of the weights, that training holds beside them and their gradients: :func:`state_copies`.
    share
        Of the machine's free memory that this process may take. A GPU's is held back already
        (:func:`~feat_fed.train.device.on_device`).

    Raises
    ------
    MemoryShortError
        If not even one clip fits.
    """
    weights_bytes = sum(each.nbytes for each in model.parameters())
    state_bytes = int(copies * weights_bytes)  # still to come; gradients are there in the dry step
    device = next(model.parameters()).device
    if device.type == "cuda":
        fits = _largest_that_runs(model, loss_of, wanted=wanted, state_bytes=state_bytes)
        needs = "a step of one clip does not fit the GPU"
    else:
        clip_bytes = step_bytes(model, loss_of(1))
        free_bytes = int(share * available_bytes())
        fits = min(wanted, (free_bytes - state_bytes - weights_bytes) // clip_bytes)
        needs = (
            f"a step of one clip needs {(clip_bytes + state_bytes + weights_bytes) / 1e9:.2f} GB, "
            f"and {free_bytes / 1e9:.2f} GB of memory may be used"
        )
    if fits < 1:
        raise MemoryShortError(
            f"{needs}; close other programs, raise compute.memory_share or set "
            "compute.gradient_checkpointing: true in the site's file, or ask for a study with "
            "fewer frames or pixels"
        )
    if fits < wanted:
        _log.warning("%d clips at once do not fit; training takes %d at once", wanted, fits)
    return fits


def state_copies(
    training: TrainingConfig, *, processes: int, zero_stage: int, private: bool = False
) -> float:
    """Return how many copies of the weights a process holds beside them and their gradients.

    AdamW's two moments, and what FedProx pulls to; with ZeRO a process's part of these, of the
    weights and of the gradient. What ZeRO-2 and 3 save beyond that is left as a reserve. A private
    step has a patient's gradient, a micro-batch's and the sum, each whole on every process.
    """
    copies = 3.0 if training.proximal_mu else 2.0
    sharded = training.engine == "deepspeed" and processes > 1 and zero_stage > 0
    return ((copies + 2) / processes if sharded else copies) + 2.0 * private


def step_bytes(model: nn.Module, loss_of: LossFunction) -> int:
    """Return the most memory that the loss and its gradient hold at a time, on a CPU.

    Weights and their gradients are not counted; temporary memory inside one operator is not
    seen.
    """
    peak = _LivePeak()
    with _Gradients(model):
        peak.ignore(*model.parameters(), *model.buffers())
        peak.ignore(*(each.grad for each in model.parameters() if each.grad is not None))
        with peak:
            loss_of(model).backward()  # type: ignore[no-untyped-call]
    return peak.peak_bytes


def _largest_that_runs(
    model: nn.Module, loss_of: LossOfClips, *, wanted: int, state_bytes: int
) -> int:
    """Return ``wanted``, halved until a step runs in the GPU's memory; 0 if none does."""
    number = wanted
    while number and not _runs(model, loss_of(number), state_bytes=state_bytes):
        number //= 2
    return number


def _runs(model: nn.Module, loss_of: LossFunction, *, state_bytes: int) -> bool:
    """Whether a step runs in the GPU's memory beside ``state_bytes`` of optimiser."""
    device = next(model.parameters()).device
    try:
        with _Gradients(model):
            state = torch.empty(state_bytes, dtype=torch.uint8, device=device)
            loss_of(model).backward()  # type: ignore[no-untyped-call]
            del state
    except (RuntimeError, MemoryError) as error:
        if not is_short_of_memory(error):
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    return True


class _Gradients:
    """Every weight has a gradient in the block, and none after it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        for weight in self._model.parameters():
            weight.grad = torch.zeros_like(weight)

    def __exit__(self, *_: object) -> None:
        self._model.zero_grad()


class _LivePeak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the tensors that are alive, after each operator of forward and backward."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._live_bytes = 0
        self.peak_bytes = 1

    def ignore(self, *tensors: Tensor) -> None:
        """Do not count these, which were there before."""
        for tensor in tensors:
            self._see(tensor.untyped_storage(), 0)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._see(storage, storage.nbytes())
        return out

    def _see(self, storage: torch.UntypedStorage, size_bytes: int) -> None:
        key = storage._cdata
        if key in self._seen:
            return

        def gone(_: object) -> None:
            self._live_bytes -= size_bytes
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self._live_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
