"""Who takes part in a step."""

from __future__ import annotations

import os

import numpy as np


def poisson_sample(number: int, *, rate: float) -> list[int]:
    """Return which of ``number`` units take part, each with probability ``rate`` by itself.

    The chance is the operating system's (:func:`os.urandom`), to 53 bits: amplification by
    sampling holds only as long as nobody else knows who took part.
    """
    words = np.frombuffer(os.urandom(8 * number), dtype=np.uint64)
    uniform = (words >> np.uint64(11)) * 2.0**-53
    return [int(each) for each in np.flatnonzero(uniform < rate)]
