"""AdamW's state as a flat dictionary of float32 tensors, out of one engine and into another.

The names are ``exp_avg/WEIGHT``, ``exp_avg_sq/WEIGHT`` and ``step/WEIGHT``, WEIGHT being the
parameter's name in the model; they know nothing of the engine or of how it shards.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from feat_fed.errors import CheckpointError
from feat_fed.finite import all_finite

_KEYS = ("step", "exp_avg", "exp_avg_sq")


def state_of(optimiser: torch.optim.AdamW, model: nn.Module) -> dict[str, Tensor]:
    """Return copies on the CPU; a weight that never had a gradient has no state."""
    return {
        f"{key}/{name}": optimiser.state[weight][key].detach().to("cpu", torch.float32, copy=True)
        for name, weight in model.named_parameters()
        if weight in optimiser.state
        for key in _KEYS
    }


def load_state(optimiser: torch.optim.AdamW, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the state into an optimiser over all of the model; nothing unless all of it fits.

    Raises
    ------
    CheckpointError
        If it is of another model.
    """
    weights = dict(model.named_parameters())
    if fault := misfit(state, {name: weight.shape for name, weight in weights.items()}):
        raise CheckpointError(f"the optimiser's state is of another model: {fault}")
    for name in {each.split("/", 1)[1] for each in state}:
        weight = weights[name]
        # AdamW in its fused form counts steps where the weight lies.
        optimiser.state[weight] = {
            key: state[f"{key}/{name}"].to(weight.device, torch.float32, copy=True) for key in _KEYS
        }


def misfit(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Say why the state cannot belong to weights of these shapes; empty when it can."""
    names = {each.partition("/")[2] for each in state}
    if not names or names - shapes.keys():
        return f"{len(names - shapes.keys())} unknown weights of {len(names)}"
    if state.keys() != {f"{key}/{name}" for key in _KEYS for name in names}:
        return f"not step, exp_avg and exp_avg_sq of each of {len(names)} weights"
    for name in sorted(names):
        step, *moments = (state[f"{key}/{name}"] for key in _KEYS)
        if step.shape != () or any(each.shape != shapes[name] for each in moments):
            return f"a moment of {name} has another shape"
        if not all(all_finite(each) for each in (step, *moments)):
            return f"a moment of {name} is not finite"
    return ""
