"""How far a metric would move with other videos of the same kind: intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """Of 95 % coverage around a value."""

    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[[Rows, Rows], float],
    real_videos: Rows,
    generated_videos: Rows,
    *,
    value: float,
    resamples: int,
    seed: int,
    floor: float = -np.inf,
) -> Interval | None:
    """Return ``value`` plus and minus 1.96 standard errors, found by resampling whole videos.

    Videos of both sides are drawn with replacement, as many as there are, with all rows (clips or
    frames) that belong to each: rows of a video are not independent. Only the *spread* of the
    replicates is used. Their level is not: a sample with repetitions has a covariance of lower
    rank, so that Frechet distances of replicates lie above the value, the more so the fewer
    videos there are, and percentiles of them would not hold the value itself (Efron and
    Tibshirani 1993, Chapter 10, on bias). The interval says how well the number is known *at this
    count of videos*. It does not contain the bias of a Frechet distance at small counts.

    Parameters
    ----------
    statistic
        The metric of some rows of the real and of the generated features.
    real_videos, generated_videos
        Which video each row is of; empty where the metric does not look at that side.
    floor
        The metric's least possible value.

    Returns
    -------
    Interval | None
        ``None`` for fewer than two resamples, or where a side has one video only.
    """
    sides = [_rows_by_video(videos) for videos in (real_videos, generated_videos)]
    if resamples < 2 or any(len(side) == 1 for side in sides):
        return None
    random = np.random.Generator(np.random.PCG64(seed))
    replicates = [
        statistic(*(_resampled(side, random) for side in sides)) for _ in range(resamples)
    ]
    reach = _NORMAL_95 * float(np.std(replicates, ddof=1))
    return Interval(max(floor, value - reach), value + reach)


def _rows_by_video(videos: Rows) -> list[Rows]:
    order = np.argsort(videos, kind="stable")
    starts = np.flatnonzero(np.diff(videos[order])) + 1
    return np.split(order, starts) if len(videos) else []


def _resampled(side: list[Rows], random: np.random.Generator) -> Rows:
    if not side:
        return np.empty(0, np.intp)
    return np.concatenate([side[each] for each in random.integers(len(side), size=len(side))])
