"""Sums to which no single vector adds more than a bound.

A vector is a sequence of tensors: a gradient, or an update of a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MARGIN = 1e-5
"""By which a clipped vector stays below the bound, for what rounding adds to it."""
_ROW = 4096


class ClippedSum:
    """The sum of vectors, each scaled down to a longest norm (arXiv 1607.00133, Algorithm 1).

    In float32, like the vectors. It holds one vector, the sum; Opacus's ``DPOptimizer`` holds those
    of all units at once, and takes their norms in float32.

    Parameters
    ----------
    like
        Tensors of the vectors' shapes, on their device.
    clip_norm
        C, the longest L2 norm that a vector adds.
    """

    def __init__(self, like: Sequence[Tensor], *, clip_norm: float) -> None:
        self._bound = clip_norm * (1.0 - _MARGIN)
        self.tensors = [
            torch.zeros(each.shape, dtype=torch.float32, device=each.device) for each in like
        ]

    @torch.no_grad()
    def add(self, vector: Sequence[Tensor | None]) -> float:
        """Add a vector, in which None stands for zeros; return the norm that it had.

        One that is not finite adds nothing.
        """
        both = zip(self.tensors, vector, strict=True)
        pairs = [(mine, each) for mine, each in both if each is not None]
        sums, parts = [mine for mine, _ in pairs], [each for _, each in pairs]
        norm = norm_of(parts)
        if 0.0 < norm < math.inf:
            torch._foreach_add_(sums, parts, alpha=min(1.0, self._bound / norm))
        return norm


def norm_of(vector: Sequence[Tensor]) -> float:
    """Return the L2 norm of all the tensors as one vector.

    Parts of :data:`_ROW` numbers are taken in float32 and added up in float64, which is exact to
    1e-8. Torch's float32 norm of a large tensor is off by a thousandth, and would break the bound.
    A vector with a number beyond some 1e19 counts as not finite.
    """
    rows = [norm for each in vector for norm in _row_norms(each.detach().reshape(-1))]
    if not rows:
        return 0.0
    return float(torch.linalg.vector_norm(torch.cat(rows).double()))


def _row_norms(flat: Tensor) -> list[Tensor]:
    """Return the norms of a tensor's rows, and of what is left at its end."""
    whole = flat.numel() - flat.numel() % _ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)
    return [rows, torch.linalg.vector_norm(flat[whole:]).view(1)]
