r"""The wavelet: a symmetric orthonormal two-band split of a line of N pixels.

Haar is the only symmetric orthonormal wavelet with finite filters (Daubechies 1992, theorem
8.1.4), and its reconstructions are blocky. Orthonormal Butterworth wavelets (Herley and
Vetterli, IEEE Trans. Signal Processing 41(8), 1993) are symmetric and smooth at the price of
infinite, quickly decaying filters:

.. math:: |H(\omega)|^2 = \frac{2 \cos^{2p}(\omega/2)}{\cos^{2p}(\omega/2) + \sin^{2p}(\omega/2)}

with odd p; p = 1 is Haar. On a line that is continued by its mirror image (no seam at the
borders) such a filter is diagonal in the DCT-II basis, and decimation by two folds frequency
N - k onto k. So the whole split is a rotation of every pair (X_k, X_{N-k}) of DCT coefficients
by the angle phi_k = arctan(tan^p(pi k / 2N)), brought back to pixels by an inverse DCT-II
(averages) and an inverse DST-II (details) of half the length. Mirroring the line mirrors the
averages, and mirrors and negates the details, exactly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

ORDER = 3
"""p; 3 is two to five decibels better than Haar, and 5 rings more for little gain."""


@lru_cache(maxsize=32)
def band_matrices(size: int, levels: int, order: int = ORDER) -> tuple[Matrix, Matrix]:
    """Return the averages and the details of the coarsest level, as matrices.

    Parameters
    ----------
    size
        N, a multiple of ``2**levels``.

    Returns
    -------
    low, high
        Each (N / 2**levels, N); all rows together are orthonormal.
    """
    low, high = split_matrices(size, order)
    for _ in range(levels - 1):
        coarser_low, coarser_high = split_matrices(low.shape[0], order)
        low, high = coarser_low @ low, coarser_high @ low
    return low, high


def split_matrices(size: int, order: int) -> tuple[Matrix, Matrix]:
    """Return one level: two matrices (N/2, N) that make one orthogonal (N, N) matrix."""
    half = size // 2
    spectrum = _dct(size)
    k = np.arange(half + 1)
    phi = np.arctan(np.tan(np.pi * k / (2 * size)) ** order)
    near, far = spectrum[: half + 1], spectrum[size - k[1:]]
    cos, sin = np.cos(phi)[:, None], np.sin(phi)[:, None]
    averages = np.concatenate([near[:1], cos[1:half] * near[1:half] - sin[1:half] * far[:-1]])
    # The last pair is coefficient N/2 with itself: it belongs to the details as it is.
    details = np.concatenate([sin[1:half] * near[1:half] + cos[1:half] * far[:-1], near[half:]])
    return _dct(half).T @ averages, _dst(half).T @ details


def _dct(size: int) -> Matrix:
    """Orthonormal DCT-II; a row is a frequency."""
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    basis: Matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    basis[0] /= np.sqrt(2)
    return basis


def _dst(size: int) -> Matrix:
    """Orthonormal DST-II; a row is a frequency, 1 to N."""
    k, n = np.arange(1, size + 1)[:, None], np.arange(size)[None, :]
    basis: Matrix = np.sqrt(2 / size) * np.sin(np.pi * k * (2 * n + 1) / (2 * size))
    basis[-1] /= np.sqrt(2)
    return basis
