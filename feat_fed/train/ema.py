"""The exponential moving average of weights, from which samples are drawn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from feat_fed.errors import CheckpointError


def ema_update(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, decay: float
) -> dict[str, Tensor]:
    """Return ``decay * average + (1 - decay) * weights`` in float32, as new tensors.

    Tensors that are not floats are copied from ``weights``, never averaged.

    Raises
    ------
    CheckpointError
        If the two do not hold the same names.
    """
    if average.keys() != weights.keys():
        raise CheckpointError("the average and the weights are of different models")
    floats = [name for name, tensor in weights.items() if tensor.is_floating_point()]
    moved = [average[name].to(torch.float32, copy=True) for name in floats]
    torch._foreach_lerp_(moved, [weights[name].float() for name in floats], 1.0 - decay)
    new = {name: tensor.clone() for name, tensor in weights.items() if name not in set(floats)}
    new.update(zip(floats, moved, strict=True))
    return {name: new[name] for name in weights}
