"""What a site's training has changed, as one vector: its length, and a bound on it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from feat_fed.errors import TrainingError

_ROUNDING = 1e-6
"""Relative, of a norm of differences of float32."""


def move_norm(trained: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> float:
    """Return the L2 norm of all that changed, over floats, in float64."""
    return math.sqrt(
        sum(
            float((trained[name].double() - before.double()).square().sum())
            for name, before in received.items()
            if before.is_floating_point()
        )
    )


def clip_factor(norm: float, *, clip_norm: float) -> float:
    """Return by what an update is multiplied so that it is at most as long as the bound.

    A little less than min(1, C / norm), which covers the rounding of the norm; 1 of a zero update.
    """
    longest = norm * (1 + _ROUNDING)
    return clip_norm / longest if longest > clip_norm else 1.0


def clipped_update(
    trained: Mapping[str, Tensor], received: Mapping[str, Tensor], *, clip_norm: float
) -> tuple[dict[str, Tensor], bool]:
    """Return weights that have moved by at most ``clip_norm``, and whether they had before.

    The bound holds up to what the weights' own type rounds, which is why the server clips, too.
    Integers and booleans are no part of the vector and stay as they are. Where nothing is cut off,
    the weights are the very ones.

    Raises
    ------
    TrainingError
        If a weight is not finite: no factor brings such an update within a bound.
    """
    norm = move_norm(trained, received)
    if not math.isfinite(norm):
        raise TrainingError("a weight is not finite after training, so that it cannot be clipped")
    factor = clip_factor(norm, clip_norm=clip_norm)
    if factor == 1.0:
        return dict(trained), True
    clipped = dict(trained)
    for name, before in received.items():
        if before.is_floating_point():
            move = trained[name].double() - before.double()
            clipped[name] = move.mul_(factor).add_(before.double()).to(before.dtype)
    return clipped, norm <= clip_norm
