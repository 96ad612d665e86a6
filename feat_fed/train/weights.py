"""A model's weights as a plain dictionary, out of a model and into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from feat_fed.errors import CheckpointError
from feat_fed.finite import all_finite


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies on the CPU that share no memory with the model; floats as float32."""
    return portable(model.state_dict())


def portable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU of a model's state; floats as float32."""
    return {name: _portable(tensor) for name, tensor in state.items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy ``weights`` into the model; nothing is copied unless all of them fit.

    Raises
    ------
    CheckpointError
        If a name is missing or foreign, or a tensor has another shape, another kind of
        number, or a value that is not finite.
    """
    state = model.state_dict()
    check_weights(weights, state)
    with torch.no_grad():
        for name, tensor in weights.items():
            state[name].copy_(tensor)


def check_weights(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise :class:`CheckpointError` unless the weights fit a model with this state."""
    if state.keys() != weights.keys():
        missing, foreign = state.keys() - weights.keys(), weights.keys() - state.keys()
        raise CheckpointError(
            f"the weights are of another model: {_few(missing)} missing, {_few(foreign)} foreign; "
            "check that model.* of the study is what the weights were made with"
        )
    for name, tensor in weights.items():
        _check(name, tensor, state[name])


def _portable(tensor: Tensor) -> Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=dtype, copy=True).contiguous()


def _check(name: str, tensor: Tensor, expected: Tensor) -> None:
    if tensor.shape != expected.shape:
        raise CheckpointError(
            f"weight {name} has shape {tuple(tensor.shape)}, the model needs "
            f"{tuple(expected.shape)}; check model.* of the study"
        )
    if tensor.is_floating_point() != expected.is_floating_point():
        raise CheckpointError(f"weight {name} is {tensor.dtype}, the model needs {expected.dtype}")
    if not all_finite(tensor):
        raise CheckpointError(
            f"weight {name} is not finite; start again from an earlier checkpoint"
        )


def _few(names: Iterable[str]) -> str:
    first = sorted(names)
    return f"{', '.join(first[:3]) or 'nothing'}{', ...' if len(first) > 3 else ''}"
