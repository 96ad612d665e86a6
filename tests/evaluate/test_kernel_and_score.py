"""KID and IS against the formulas of torch-fidelity and torchmetrics, written out anew."""

import numpy as np
import pytest
import torch

from feat_fed.errors import DataError
from feat_fed.evaluate import inception_score, kernel_distance
from feat_fed.evaluate.kernel import squared_mmd


def mmd_by_sums(x: np.ndarray, y: np.ndarray) -> float:
    """A double loop over pairs."""

    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float((p @ q / len(p) + 1) ** 3)

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_x + within_y - 2 * sum(k(p, q) for p in x for q in y) / (m * n)


def kid_of_torch_fidelity(x: np.ndarray, y: np.ndarray, subsets: int, size: int) -> float:
    random = np.random.RandomState(2020)
    found = []
    for _ in range(subsets):
        p = x[random.choice(len(x), size, replace=False)]
        q = y[random.choice(len(y), size, replace=False)]
        k_pp, k_qq, k_pq = (
            (np.matmul(u, v.T) * (1.0 / x.shape[1]) + 1) ** 3 for u, v in ((p, p), (q, q), (p, q))
        )
        inner = (k_pp.sum(axis=1) - np.diagonal(k_pp)).sum()
        inner += (k_qq.sum(axis=1) - np.diagonal(k_qq)).sum()
        found.append(inner / (size * (size - 1)) - 2 * k_pq.sum() / size**2)
    return float(np.mean(found))


def isc_of_torch_fidelity(logits: np.ndarray, splits: int, seed: int | None) -> float:
    feature = torch.from_numpy(logits)
    if seed is not None:
        feature = feature[np.random.RandomState(seed).permutation(len(logits))]
    p, log_p, n = feature.softmax(dim=1), feature.log_softmax(dim=1), len(logits)
    scores = []
    for i in range(splits):
        rows = slice(i * n // splits, (i + 1) * n // splits)
        q = p[rows].mean(dim=0, keepdim=True)
        kl = p[rows] * (log_p[rows] - q.log())
        scores.append(kl.sum(dim=1).mean().exp().item())
    return float(np.mean(scores))


@pytest.fixture
def two_sets() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(3)
    return random.normal(size=(90, 7)), random.normal(0.4, 1.3, size=(70, 7))


def test_one_estimate_equals_the_sums_over_pairs(two_sets: tuple) -> None:
    x, y = two_sets
    assert squared_mmd(x, y[:11]) == pytest.approx(mmd_by_sums(x, y[:11]), rel=1e-10)


def test_subsets_are_those_of_torch_fidelity(two_sets: tuple) -> None:
    found = kernel_distance(*two_sets, num_subsets=5, subset_size=50)
    assert found == pytest.approx(kid_of_torch_fidelity(*two_sets, 5, 50), rel=1e-10)


def test_fewer_samples_than_a_subset_give_one_estimate(two_sets: tuple) -> None:
    assert kernel_distance(*two_sets, subset_size=90) == squared_mmd(*two_sets)


def test_a_small_set_is_taken_whole_against_subsets_of_a_large_one(two_sets: tuple) -> None:
    x, y = two_sets
    random = np.random.RandomState(2020)
    expected = [squared_mmd(x[random.choice(90, 80, replace=False)], y) for _ in range(5)]
    assert kernel_distance(x, y, num_subsets=5, subset_size=80) == pytest.approx(np.mean(expected))


def test_it_is_unbiased_at_few_samples() -> None:
    """Of equal distributions the mean is 0 at any count, and single estimates fall below it."""
    random = np.random.RandomState(0)
    found = [squared_mmd(*random.normal(size=(2, 8, 4))) for _ in range(2000)]
    assert min(found) < 0
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_other_dimensions_are_refused() -> None:
    with pytest.raises(DataError, match="4 and 5 dimensions"):
        squared_mmd(np.ones((3, 4)), np.ones((3, 5)))


@pytest.mark.parametrize("seed", [None, 2020])
@pytest.mark.parametrize("splits", [1, 7, 10])
def test_the_score_is_that_of_torch_fidelity(splits: int, seed: int | None) -> None:
    logits = np.random.RandomState(1).normal(0, 3, size=(95, 20))
    expected = isc_of_torch_fidelity(logits, splits, seed)
    assert inception_score(logits, splits=splits, seed=seed) == pytest.approx(expected, rel=1e-10)


def test_the_score_lies_between_one_and_the_classes() -> None:
    same = np.zeros((20, 6))
    sure = np.eye(6)[np.arange(60) % 6] * 1e4  # of other classes nothing is left in float64
    assert inception_score(same) == pytest.approx(1)
    assert inception_score(sure, splits=1) == pytest.approx(6)


def test_more_splits_than_images_are_as_many_as_there_are() -> None:
    assert inception_score(np.eye(3) * 9, splits=10) == pytest.approx(1)
