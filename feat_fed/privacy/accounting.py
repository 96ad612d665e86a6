"""Epsilon of a history of noisy steps, by Opacus's accountants.

The mechanism is the Poisson-subsampled Gaussian one (Abadi et al., arXiv 1607.00133), under the
adjacency that makes one unit's records vanish and leaves the number of units as it is (zero-out,
Kairouz et al., arXiv 2103.00039). Renyi differential privacy (Mironov et al., arXiv 1908.10530)
bounds epsilon from above and is what is enforced; the numerical bound by privacy loss random
variables (Gopi et al., arXiv 2106.02848) is closer and is shown beside it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feat_fed.errors import ConfigError

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    FloatArray = NDArray[float64]

LEAST_NOISE = 0.1
"""Noise multiplier below which epsilon of any use cannot be promised, nor well computed."""

_MOST_NOISE = 1e3
_TOLERANCE = 1e-4
_STRIDE = 1.5
"""Of the noise multiplier's logarithm."""

_LARGEST_BY_PRV = 100.0
"""Epsilon beyond which nothing is promised, and the numerics are of no use."""

_MOST_POINTS = 2**21
"""Of the grid of PRV: some seconds and 400 MB."""

_LARGEST_ERROR = 0.5
"""Of PRV, in epsilon and as a share of the bound by RDP."""

_LARGER_ORDERS = (80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 1024.0)
"""Of Renyi divergence, beside Opacus's, which end at 63: little is spent at large ones."""


@dataclass(frozen=True)
class NoisySteps:
    """Steps of one kind.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise over the bound that it hides.
    sample_rate
        Chance of each unit to take part in a step; 1: all do.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def preload_accounting() -> None:
    """Import Opacus, which takes over a second, in a process that forks children which account."""
    import opacus.accountants  # noqa: F401


def rdp_epsilon(history: Iterable[NoisySteps], *, delta: float) -> float:
    """Return the epsilon that all these steps together spend, bounded by RDP; 0 of none."""
    from opacus.accountants.analysis.rdp import get_privacy_spent

    merged = _merged(history)
    if not merged:
        return 0.0
    rdp = sum(steps * _rdp_of_a_step(noise, rate) for noise, rate, steps in merged)
    with _orders_at_the_end():
        epsilon, _ = get_privacy_spent(orders=_orders(), rdp=rdp, delta=delta)
    return max(0.0, float(epsilon))


@functools.lru_cache(maxsize=1024)
def _rdp_of_a_step(noise_multiplier: float, sample_rate: float) -> FloatArray:
    """Return the Renyi divergence at each order, which is what takes the time.

    It is never below 0. Where next to nothing is spent, rounding makes Opacus's so, and enough
    steps of it would take back what others have spent.
    """
    import numpy as np
    from opacus.accountants.analysis.rdp import compute_rdp

    rdp = compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_orders())
    least: FloatArray = np.maximum(np.nan_to_num(rdp, nan=np.inf, posinf=np.inf), 0.0)
    return least


def _orders() -> list[float]:
    from opacus.accountants import RDPAccountant

    return [*RDPAccountant.DEFAULT_ALPHAS, *_LARGER_ORDERS]


def prv_epsilon(history: Iterable[NoisySteps], *, delta: float) -> float | None:
    """Return the closer bound by PRV; None where its numerics do not reach."""
    import numpy as np
    from opacus.accountants import PRVAccountant

    merged = _merged(history)
    bound = rdp_epsilon((NoisySteps(*each) for each in merged), delta=delta)
    if bound == 0.0 or bound > _LARGEST_BY_PRV:
        return None if bound else 0.0
    accountant = PRVAccountant()
    accountant.history = merged
    wanted = min(max(0.01, bound / 1000), bound / 50)
    try:
        with _orders_at_the_end(), np.errstate(all="ignore"):
            error = max(wanted, _least_error(merged, delta=delta))
            if error > _LARGEST_ERROR * min(1.0, bound):
                return None
            epsilon = float(accountant.get_epsilon(delta, eps_error=error))
    except (ArithmeticError, RuntimeError, ValueError, MemoryError):
        return None
    return epsilon if math.isfinite(epsilon) else None


def _least_error(history: Sequence[tuple[float, float, int]], *, delta: float) -> float:
    """Return the error in epsilon of the finest grid that is worth its memory.

    Gopi et al., section 5: the mesh of an error, and the length of the grid. Opacus takes any.
    """
    from opacus.accountants.analysis.prv import (
        PoissonSubsampledGaussianPRV,
        compute_safe_domain_size,
    )

    delta_error = delta / 1000  # as Opacus chooses it
    counts = [steps for _, _, steps in history]
    length = 2 * compute_safe_domain_size(
        [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in history],
        counts,
        eps_error=_LARGEST_ERROR,
        delta_error=delta_error,
    )
    return float(length * math.sqrt(sum(counts) * math.log(12 / delta_error) / 2) / _MOST_POINTS)


def noise_for(*, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Return about the least noise multiplier with which so many steps spend at most ``epsilon``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    from scipy.optimize import bisect

    def excess(logarithm: float) -> float:
        history = [NoisySteps(math.exp(logarithm), sample_rate, steps)]
        return rdp_epsilon(history, delta=delta) - epsilon

    least, most = math.log(LEAST_NOISE), math.log(_MOST_NOISE)
    if excess(least) <= 0:
        return LEAST_NOISE
    enough = least
    while excess(enough) > 0:  # from below, since much noise takes long to account for
        if enough >= most:
            raise ConfigError(
                f"no noise makes {steps} steps at a sample rate of {sample_rate:g} spend an "
                f"epsilon of only {epsilon:g} at delta {delta:g}; raise epsilon or delta, or take "
                "fewer steps"
            )
        least, enough = enough, min(most, enough + _STRIDE)
    found = math.exp(float(bisect(excess, least, enough, xtol=_TOLERANCE)) + _TOLERANCE)
    return rounded_up(found)


def rounded_up(value: float) -> float:
    """Return a positive number with four digits, which can be written down."""
    digits = 3 - math.floor(math.log10(value))
    return float(math.ceil(value * 10.0**digits) / 10.0**digits)


def _merged(history: Iterable[NoisySteps]) -> list[tuple[float, float, int]]:
    """Return the steps of each kind together, as Opacus writes them."""
    counts = Counter[tuple[float, float]]()
    for each in history:
        counts[each.noise_multiplier, each.sample_rate] += each.steps
    return [(noise, rate, steps) for (noise, rate), steps in sorted(counts.items()) if steps]


@contextmanager
def _orders_at_the_end() -> Iterator[None]:
    """Let a bound pass that the first or the last order gives: it holds, and could be closer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
