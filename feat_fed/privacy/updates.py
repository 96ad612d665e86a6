"""What a site's training has changed, as one vector: its length, and a bound on it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from feat_fed.errors import TrainingError

_ROUNDING = 1e-6
"""Relative, of a norm of differences of float32."""
_ROUNDINGS = 8
"""To the weights' type, that are tried; one nearly always does."""


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

    The bound holds for the weights as they are after rounding to their own type: where nobody but
    the site sees its update, nobody else could clip it. Integers and booleans are no part of the
    vector and stay as they are. Where nothing is cut off, the weights are the very ones.

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
    for _ in range(_ROUNDINGS):
        for name, before in received.items():
            if before.is_floating_point():
                move = trained[name].double() - before.double()
                clipped[name] = move.mul_(factor).add_(before.double()).to(before.dtype)
        if (left := move_norm(clipped, received)) <= clip_norm:
            return clipped, norm <= clip_norm
        factor *= clip_factor(left, clip_norm=clip_norm)
    # A bound that the weights' type is too coarse for: nothing is within it but no move at all.
    return clipped | {n: e for n, e in received.items() if e.is_floating_point()}, norm <= clip_norm
