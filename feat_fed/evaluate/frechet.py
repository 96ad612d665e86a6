"""The Frechet distance between two sets of features: FVD and FID, by the network they come from.

Legend: N samples, D dimensions, R rows that span what N samples span (the smaller of N and D).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from feat_fed.errors import DataError

Features = NDArray[np.float64]


def frechet_distance(a_ND: ArrayLike, b_ND: ArrayLike, *, ddof: int = 1) -> float:
    """Return the squared 2-Wasserstein distance between the Gaussians of two sets of features.

    ``|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` (Dowson and Landau 1982; Heusel et al.,
    arXiv 1706.08500, Equation 6). With ``S = X^T X``, where X holds the centred samples over the
    square root of the divisor, the eigenvalues of ``S_a S_b`` are the squared singular values of
    ``X_a X_b^T``: the trace of the root is their sum, a nuclear norm. Nothing is inverted and no
    root of a singular matrix is taken, so fewer samples than dimensions are no trouble to it.

    Parameters
    ----------
    a_ND, b_ND
        (N, D) each; N may differ. Computed in float64.
    ddof
        The covariance is divided by N - ddof: 0 in the code of StyleGAN-V and cd-fvd, 1 in that of
        TensorFlow-GAN and torchmetrics. It matters at small N.

    Raises
    ------
    DataError
        When shapes do not go together, a value is not finite or a set has no covariance.
    """
    a, b = checked_features(a_ND, "a"), checked_features(b_ND, "b")
    if a.shape[1] != b.shape[1]:
        raise DataError(
            f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared; compute "
            "both with the same network"
        )
    root_a_RD, root_b_RD = _root(a, ddof), _root(b, ddof)
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    traces = np.square(root_a_RD).sum() + np.square(root_b_RD).sum()
    cross = scipy.linalg.svdvals(root_a_RD @ root_b_RD.T).sum()
    # Equal sets give the rounding of a difference of equal numbers.
    return float(max(0.0, mean + traces - 2 * cross))


def checked_features(features: ArrayLike, name: str) -> Features:
    """Return features as float64 (N, D).

    Raises
    ------
    DataError
        When they have another shape, fewer than two rows, or a value that is not finite.
    """
    found = np.asarray(features, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] < 2 or found.shape[1] < 1:
        raise DataError(f"{name}: features of shape {found.shape}; give (N, D), two rows at least")
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise DataError(f"{name}: the features of sample {row} are not finite (NaN or Inf)")
    return found


def _root(features_ND: Features, ddof: int) -> Features:
    """Return a matrix of few rows whose product with itself is the covariance."""
    divisor = features_ND.shape[0] - ddof
    if divisor < 1:
        raise DataError(f"{features_ND.shape[0]} samples with ddof={ddof} have no covariance")
    centred: Features = (features_ND - features_ND.mean(axis=0)) / float(divisor) ** 0.5
    if centred.shape[0] <= centred.shape[1]:
        return centred
    # With a root of few rows the singular values of thousands of samples cost no more.
    eigenvalues, vectors = scipy.linalg.eigh(centred.T @ centred, check_finite=False)
    root: Features = np.sqrt(eigenvalues.clip(0))[:, None] * vectors.T
    return root
