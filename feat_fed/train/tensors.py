"""Weights and AdamW's state side by side in one flat dictionary, as a tensor file wants it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_WEIGHT, _STATE = "weight/", "optimiser/"


def joined(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return both, each name with a prefix."""
    tensors = {_WEIGHT + name: each for name, each in weights.items()}
    return tensors | {_STATE + name: each for name, each in state.items()}


def parted(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what :func:`joined` was given."""
    return _under(_WEIGHT, tensors), _under(_STATE, tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)
    }
