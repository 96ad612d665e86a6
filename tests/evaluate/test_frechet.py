import numpy as np
import pytest
import scipy.linalg

from feat_fed.errors import DataError
from feat_fed.evaluate import frechet_distance


def by_square_root(a: np.ndarray, b: np.ndarray, ddof: int) -> float:
    """As StyleGAN-V, cd-fvd and common_metrics_on_video_quality write it."""
    mu_a, mu_b = a.mean(axis=0), b.mean(axis=0)
    s_a, s_b = (np.cov(each, rowvar=False, ddof=ddof) for each in (a, b))
    root = scipy.linalg.sqrtm(s_a @ s_b)
    return float(np.real(np.square(mu_a - mu_b).sum() + np.trace(s_a + s_b - 2 * root)))


def by_eigenvalues(a: np.ndarray, b: np.ndarray, ddof: int) -> float:
    """Without a root of a matrix, which a singular one need not have."""
    s_a, s_b = (np.cov(each, rowvar=False, ddof=ddof) for each in (a, b))
    roots = np.sqrt(np.linalg.eigvals(s_a @ s_b).real.clip(0)).sum()
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(s_a + s_b) - 2 * roots)


def features(n: int, d: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    random = np.random.RandomState(seed)
    mixing = random.normal(size=(d, d)) / np.sqrt(d)
    return (random.normal(size=(n, d)) @ mixing) * scale + shift


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("n", [16, 64, 400, 2048])
def test_it_equals_the_references(n: int, ddof: int) -> None:
    a, b = features(n, 12, 1), features(n, 12, 2, scale=1.4, shift=0.3)
    expected = by_square_root(a, b, ddof)
    assert frechet_distance(a, b, ddof=ddof) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_equals_them_with_fewer_samples_than_dimensions(ddof: int) -> None:
    a, b = features(16, 60, 1), features(40, 60, 2, scale=1.4)
    expected = by_eigenvalues(a, b, ddof)
    assert frechet_distance(a, b, ddof=ddof) == pytest.approx(expected, rel=1e-4)


def test_one_side_may_have_fewer_and_the_order_does_not_matter() -> None:
    a, b = features(16, 20, 1), features(300, 20, 2, shift=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(by_eigenvalues(a, b, 1), rel=1e-4)


def test_the_divisor_matters_where_there_are_few() -> None:
    a, b = features(16, 12, 1), features(16, 12, 2, scale=3)
    assert frechet_distance(a, b, ddof=1) > 1.03 * frechet_distance(a, b, ddof=0)


def test_gaussians_with_a_closed_form() -> None:
    a = np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]])
    assert frechet_distance(a, 3 * a + [4, 0], ddof=0) == pytest.approx(16 + 2 * 0.5 * (3 - 1) ** 2)


def test_equal_sets_are_at_zero_and_never_below() -> None:
    a = features(500, 30, 1).astype(np.float32) * 1e3
    assert 0 <= frechet_distance(a, a) < 1e-3


def test_float32_features_are_computed_in_float64() -> None:
    a, b = features(200, 20, 1, shift=300), features(200, 20, 2, shift=300)
    single = a.astype(np.float32), b.astype(np.float32)
    expected = by_square_root(*(each.astype(np.float64) for each in single), 1)
    assert frechet_distance(*single) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), "4 and 5 dimensions"),
        (np.ones((1, 4)), np.ones((3, 4)), "two rows"),
        (np.ones(4), np.ones((3, 4)), r"shape \(4,\)"),
        (np.full((3, 4), np.nan), np.ones((3, 4)), "a: the features of sample 0 are not finite"),
        (np.ones((3, 4)), np.diag([1, 1, np.inf, 1])[:3], "b: the features of sample 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: np.ndarray, b: np.ndarray, told: str) -> None:
    with pytest.raises(DataError, match=told):
        frechet_distance(a, b)
