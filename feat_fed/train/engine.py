"""One optimiser step behind one interface, with two implementations.

:class:`~feat_fed.train.torch_engine.TorchEngine` is the reference;
:class:`~feat_fed.train.deepspeed_engine.DeepSpeedEngine` gives the same bits on one process.
Both start with a fresh optimiser, which is FedAvg as published (McMahan et al.,
arXiv 1602.05629), unless they are given the state of an earlier one, of either kind.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from feat_fed.config import TrainingConfig
from feat_fed.errors import MissingExtraError
from feat_fed.train.peers import ALONE, Peers
from feat_fed.train.precision import compute_in

LossFunction = Callable[[nn.Module], Tensor]
"""Takes the model that the engine trains and returns a scalar loss to differentiate."""


@dataclass(frozen=True)
class StepOutcome:
    """What one step saw: the loss and the gradient's global L2 norm, both before the update."""

    loss: float
    gradient_norm: float

    @property
    def taken(self) -> bool:
        """Whether the weights were updated: not where one of the two is not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class Engine(Protocol):
    """Trains one model on one device, or on those of several processes that each have one.

    Of several processes all call the same methods in the same order. Each is given the losses
    of its own share, and gets back what holds for all of them. :meth:`close` it when done.
    """

    def step(self, parts: Sequence[LossFunction]) -> StepOutcome:
        """Differentiate the sum of the losses, one after the other, and update the weights.

        The gradient is pulled to the received weights (``proximal_mu``) and then clipped. A
        step whose loss or gradient is not finite changes nothing.
        """

    def step_with(self, gradient: Sequence[Tensor], *, loss: float) -> StepOutcome:
        """Update the weights as :meth:`step` does, by a gradient that is there already.

        One tensor a weight, in the model's order, on its device and contiguous; they are used up.
        Of several processes each gives its part of the sum. It does not work with ZeRO 3, where no
        process has a whole weight. ``loss`` is but reported, as the sum over the processes.
        """

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from the next step on."""

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the weights on the CPU, floats as float32."""

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these weights; the pull of FedProx stays towards the first ones."""

    def optimiser_state(self) -> dict[str, Tensor]:
        """Return copies of AdamW's state on the CPU (:mod:`feat_fed.train.optimiser_state`)."""

    def load_optimiser_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the state of an earlier engine; CheckpointError if it does not fit."""

    def close(self) -> None:
        """Give back what the engine holds outside the model; the model stays usable."""


def open_engine(
    model: nn.Module, training: TrainingConfig, *, peers: Peers = ALONE, zero_stage: int = 0
) -> Engine:
    """Build the engine that ``training.engine`` names, on the device where the model lies.

    The model's forward pass computes in ``training.precision`` from then on.

    Parameters
    ----------
    peers
        Whom to train with. Their process group is there, and outlives the engine.
    zero_stage
        What they share out, for DeepSpeed: nothing, the optimiser's state, gradients too,
        weights too. A process alone has nobody to share with.

    Raises
    ------
    MissingExtraError
        If it is DeepSpeed and DeepSpeed is not installed.
    """
    compute_in(model, training.precision)
    if training.engine == "torch":
        from feat_fed.train.torch_engine import TorchEngine

        return TorchEngine(model, training, peers)
    try:
        from feat_fed.train.deepspeed_engine import DeepSpeedEngine
        from feat_fed.train.zero_engine import ZeroEngine
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"training.engine is deepspeed, but {error.name} is not installed; "
            "pip install 'feat-fed[client]', or set training.engine: torch"
        ) from error
    if peers.size > 1 and zero_stage:
        return ZeroEngine(model, training, peers, stage=zero_stage)
    return DeepSpeedEngine(model, training, peers)


def preload() -> None:
    """Import all that a round needs, in a process that forks one child for each round.

    Starts no thread and touches no device; the parent must not train itself, because threads
    do not survive a fork. The first optimiser of a process makes torch import its compiler,
    which takes longer than the import of DeepSpeed.
    """
    with contextlib.suppress(ModuleNotFoundError):
        import feat_fed.train.zero_engine  # noqa: F401
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def adamw(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter, arXiv 1711.05101) over all of the model.

    Fused: one pass over the memory, several times as fast as torch's default on a CPU.
    """
    return torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )


def clip_gradient(model: nn.Module, limit: float | None) -> float:
    """Scale the gradient down to the global norm ``limit``; return the norm it had."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf if limit is None else limit)
    return float(norm)


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
