"""The wavelet's matrices: orthonormal, symmetric, and Haar where p = 1."""

from __future__ import annotations

import numpy as np
import pytest

from feat_fed.codec.filters import ORDER, band_matrices, split_matrices


@pytest.mark.parametrize("order", [1, 3, 5])
@pytest.mark.parametrize("size", [2, 6, 16, 64])
def test_split_is_orthogonal_and_mirrors(size: int, order: int) -> None:
    low, high = split_matrices(size, order)
    both = np.concatenate([low, high])
    np.testing.assert_allclose(both @ both.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(low[:, ::-1], low[::-1], atol=1e-12)
    np.testing.assert_allclose(high[:, ::-1], -high[::-1], atol=1e-12)


def test_order_one_is_haar() -> None:
    low, high = split_matrices(16, 1)
    blocks = np.eye(8)
    np.testing.assert_allclose(low, np.kron(blocks, [1, 1]) / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(high, np.kron(blocks, [1, -1]) / np.sqrt(2), atol=1e-12)


def test_frequency_response_is_butterworth() -> None:
    low, _ = split_matrices(256, ORDER)
    line = low[64]  # one average, far from the borders
    frequency = 2 * np.pi * np.arange(0, 256) / 1024
    response = np.abs(np.exp(-1j * np.outer(frequency, np.arange(256))) @ line) ** 2
    cos, sin = np.cos(frequency / 2) ** (2 * ORDER), np.sin(frequency / 2) ** (2 * ORDER)
    np.testing.assert_allclose(response, 2 * cos / (cos + sin), atol=1e-3)


def test_levels_stay_orthonormal_and_keep_constants() -> None:
    low, high = band_matrices(64, 3)
    both = np.concatenate([low, high])
    assert low.shape == high.shape == (8, 64)
    np.testing.assert_allclose(both @ both.T, np.eye(16), atol=1e-12)
    np.testing.assert_allclose(low @ np.ones(64), np.full(8, 8**0.5), atol=1e-12)
    np.testing.assert_allclose(high @ np.ones(64), np.zeros(8), atol=1e-12)
