"""The kernel distance between two sets of features: KVD and KID, by the network they come from.

Legend: N and M samples, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from feat_fed.errors import DataError
from feat_fed.evaluate.frechet import Features, checked_features


def squared_mmd(a_ND: ArrayLike, b_MD: ArrayLike) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy.

    The kernel is ``(x . y / D + 1)^3`` (Binkowski et al., arXiv 1801.01401, Section 4); pairs of a
    sample with itself are left out (Gretton et al. 2012, Equation 3), so that the expected value
    is the same at any N, and 0 for equal distributions. A single estimate may be negative.

    Raises
    ------
    DataError
        When shapes do not go together or a value is not finite.
    """
    a, b = checked_features(a_ND, "a"), checked_features(b_MD, "b")
    if a.shape[1] != b.shape[1]:
        raise DataError(
            f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared; compute "
            "both with the same network"
        )
    return _within(a) + _within(b) - 2 * float(_kernel(a, b).mean())


def kernel_distance(
    a_ND: ArrayLike,
    b_MD: ArrayLike,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> float:
    """Return the mean of :func:`squared_mmd` over random subsets, as torch-fidelity computes KID.

    The subsets are drawn without replacement from numpy's legacy stream, in torch-fidelity's order
    and by its defaults: equal features give its number. A set that is smaller than a subset, which
    torch-fidelity and torchmetrics refuse, is taken whole each time: that is unbiased as well.
    Where both are, there is one estimate. Memory is that of a subset's square, whatever N and M.
    """
    a, b = checked_features(a_ND, "a"), checked_features(b_MD, "b")
    if max(len(a), len(b)) <= subset_size:
        return squared_mmd(a, b)
    random = np.random.RandomState(seed)

    def subset(samples_ND: Features) -> Features:
        if len(samples_ND) < subset_size:
            return samples_ND
        return samples_ND[random.choice(len(samples_ND), subset_size, replace=False)]

    return float(np.mean([squared_mmd(subset(a), subset(b)) for _ in range(num_subsets)]))


def _kernel(a_ND: Features, b_MD: Features) -> Features:
    kernel: Features = (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3
    return kernel


def _within(a_ND: Features) -> float:
    kernel_NN = _kernel(a_ND, a_ND)
    pairs = len(a_ND) * (len(a_ND) - 1)
    return float((kernel_NN.sum() - np.trace(kernel_NN)) / pairs)
