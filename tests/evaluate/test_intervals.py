import numpy as np
import pytest

from feat_fed.evaluate import frechet_distance
from feat_fed.evaluate.intervals import bootstrap_interval


def test_of_a_mean_it_is_the_textbook_one() -> None:
    x = np.random.RandomState(0).normal(size=400)
    found = bootstrap_interval(
        lambda _, j: float(x[j].mean()),
        np.empty(0, np.intp),
        np.arange(400),
        value=float(x.mean()),
        resamples=400,
        seed=1,
    )
    reach = 1.96 * x.std(ddof=1) / 20
    assert found is not None
    assert found.high - x.mean() == pytest.approx(reach, rel=0.15)
    assert x.mean() - found.low == pytest.approx(reach, rel=0.15)


def test_whole_videos_are_drawn() -> None:
    """Ten equal frames of a video tell no more than one."""
    x = np.repeat(np.random.RandomState(0).normal(size=40), 10)
    owners = np.repeat(np.arange(40), 10)
    wide, narrow = (
        bootstrap_interval(
            lambda _, j: float(x[j].mean()),
            np.empty(0, np.intp),
            videos,
            value=0.0,
            resamples=200,
            seed=1,
        )
        for videos in (owners, np.arange(400))
    )
    assert wide is not None
    assert narrow is not None
    assert wide.high > 2.5 * narrow.high


def test_of_a_frechet_distance_it_shows_the_spread_at_this_count() -> None:
    """Replicates lie far above the value; their spread is that of other samples of this size."""
    random = np.random.RandomState(0)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return random.normal(size=(60, 10)), random.normal(0.5, 1.2, size=(60, 10))

    spread = np.std([frechet_distance(*draw()) for _ in range(200)])
    reaches = []
    for _ in range(8):
        a, b = draw()
        value = frechet_distance(a, b)
        found = bootstrap_interval(
            lambda i, j, a=a, b=b: frechet_distance(a[i], b[j]),
            np.arange(60),
            np.arange(60),
            value=value,
            resamples=60,
            seed=1,
        )
        assert found is not None
        assert found.low < value < found.high
        reaches.append(found.high - value)
    assert 0.7 < np.mean(reaches) / (1.96 * spread) < 1.5


@pytest.mark.parametrize(("resamples", "videos"), [(0, np.arange(9)), (50, np.zeros(9, np.intp))])
def test_without_resamples_or_with_one_video_there_is_none(
    resamples: int, videos: np.ndarray
) -> None:
    found = bootstrap_interval(
        lambda i, j: 1.0, videos, np.arange(9), value=1.0, resamples=resamples, seed=0
    )
    assert found is None


def test_it_ends_at_the_least_possible_value() -> None:
    found = bootstrap_interval(
        lambda _, j: float(j.mean()),
        np.empty(0, np.intp),
        np.arange(100),
        value=0.1,
        resamples=20,
        seed=0,
        floor=0.0,
    )
    assert found is not None
    assert found.low == 0.0
