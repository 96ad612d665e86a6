"""bfloat16 inside the model's forward pass, float32 everywhere else."""

from __future__ import annotations

import torch
from torch import nn


def compute_in(model: nn.Module, precision: str) -> None:
    """Make the model's forward pass compute in ``fp32`` or, by autocast, in ``bf16``.

    Weights, their gradients and what the model returns stay float32. The cast is inside the
    forward, because DeepSpeed switches an autocast around it off.
    """
    # What is set on the instance hides the class's own forward.
    model.__dict__.pop("forward", None)
    if precision == "bf16":
        kind = next(model.parameters()).device.type
        cast = torch.autocast(kind, dtype=torch.bfloat16)
        model.__dict__["forward"] = cast(model.forward)
