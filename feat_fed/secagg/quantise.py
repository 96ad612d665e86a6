"""Between floats and the ring of integers modulo 2^32, in which masks are added.

The grid's step is a power of two and values are cut towards zero, both exactly: no value, and so
no norm of an update, grows on the way. Central differential privacy may count with the bound to
which the site has clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feat_fed.errors import AgreementError, ConfigError, TrainingError
from feat_fed.finite import all_finite
from feat_fed.secagg.messages import MOST_SITES

Ring = NDArray[np.uint32]
"""Integers modulo 2^32; a negative one is its two's complement."""

MOST_COUNTED = (2**31 - 1) // MOST_SITES
"""Of one site by one counter."""

_LARGEST_SUM = 2**31 - 1
_EXACT_BITS = 24
"""Of a float32's significand."""


@dataclass(frozen=True)
class Grid:
    """What a site's values become, such that the sum of ``sites`` of them never overflows.

    A value x becomes trunc(min(max(x, -largest), largest) / step). It loses less than one step
    (nothing from 2^23 steps on, where float32 is no finer), so the L2 error of d values is below
    sqrt(d) * step, and always towards zero. Of 8 sites and a largest value of 1, a step is 2^-28.

    Parameters
    ----------
    largest
        Of a value, by amount; what goes beyond is cut off.
    sites
        Whose values are summed, at most.

    Raises
    ------
    ConfigError
        If the largest value is not between 2^-60 and 2^60.
    """

    largest: float
    sites: int

    def __post_init__(self) -> None:
        if not 2.0**-60 <= self.largest <= 2.0**60:
            raise ConfigError(
                f"privacy.secure_aggregation.largest_value is {self.largest}; say how far a weight "
                "may move in a round, such as 0.1"
            )

    @cached_property
    def step(self) -> float:
        """Of the grid; a power of two."""
        return 2.0 ** ceil(log2(self.largest * self.sites / 2**31))

    @cached_property
    def bound(self) -> int:
        """Largest integer of a site, by amount; one that float32 holds exactly.

        It stands for the largest value, or 2^-23 of that less.
        """
        most = min(int(self.largest / self.step), _LARGEST_SUM // self.sites)
        spare = max(0, most.bit_length() - _EXACT_BITS)
        return most >> spare << spare

    def to_ring(self, values: Tensor) -> Ring:
        """Return a tensor's values in the ring, in its shape.

        Raises
        ------
        TrainingError
            If a value is not finite.
        """
        if not all_finite(values):
            raise TrainingError("an update with a value that is not finite cannot be masked")
        scaled = values.detach().to("cpu", torch.float32).mul(1 / self.step)
        cut = scaled.trunc_().clamp_(-float(self.bound), float(self.bound)).to(torch.int32)
        return cut.contiguous().numpy().view(np.uint32)

    def sum_from_ring(self, total: Ring) -> NDArray[np.float64]:
        """Return a sum of sites' values; exact."""
        return np.multiply(total.view(np.int32), self.step, dtype=np.float64)


def counters_to_ring(counters: Sequence[int]) -> Ring:
    """Return whole numbers from 0 to :data:`MOST_COUNTED` in the ring."""
    if not all(0 <= each <= MOST_COUNTED for each in counters):
        raise ValueError(f"a counter that is not from 0 to {MOST_COUNTED}")
    return np.array(counters, dtype=np.uint32)


def counters_from_ring(total: Ring, *, most: int) -> list[int]:
    """Return sums of counters.

    Raises
    ------
    AgreementError
        If one is above ``most``: a site has not counted as agreed.
    """
    counters = [int(each) for each in total]
    if any(each > most for each in counters):
        raise AgreementError("a sum of counters is larger than the sites' counts can be")
    return counters
