"""From features, or from what frames show, to a metric with its interval."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from feat_fed.errors import DataError
from feat_fed.evaluate.features import Extracted
from feat_fed.evaluate.frechet import frechet_distance
from feat_fed.evaluate.inception_score import inception_score
from feat_fed.evaluate.intervals import Rows, bootstrap_interval
from feat_fed.evaluate.kernel import kernel_distance
from feat_fed.evaluate.protocol import Protocol
from feat_fed.measured import MetricValue

SINGULAR = (
    "no more samples than feature dimensions: the covariance is singular and the value too high; "
    "compare at equal counts only"
)
FEW_IMAGES = "fewer images than classes: the score cannot reach its level"

_FRECHET = ("FVD", "CD-FVD", "FID", "FVD-random")
_SUBSETS_OF_REPLICATE = 10
"""Of KVD and KID: fewer than for the value, so that the interval does not take hours."""

_NONE = np.empty(0, np.intp)


def of_features(
    metric: str, real: Extracted, generated: Extracted, protocol: Protocol
) -> MetricValue:
    """Return a metric of a network's features.

    Raises
    ------
    DataError
        When the Inception Score is asked for and no logits were computed.
    """
    if metric == "IS":
        return _inception_score(generated, protocol)
    if metric in _FRECHET:
        return _frechet(metric, real, generated, protocol)
    return _kernel(metric, real, generated, protocol)


def _frechet(metric: str, real: Extracted, generated: Extracted, protocol: Protocol) -> MetricValue:
    a, b, ddof = real.features_ND, generated.features_ND, protocol.ddof
    return _valued(
        metric,
        lambda i, j: frechet_distance(a[i], b[j], ddof=ddof),
        (real.videos_N, generated.videos_N),
        protocol,
        better="lower",
        floor=0.0,
        warning=SINGULAR if min(len(a), len(b)) <= a.shape[1] else "",
    )


def _kernel(metric: str, real: Extracted, generated: Extracted, protocol: Protocol) -> MetricValue:
    a, b, config = real.features_ND, generated.features_ND, protocol.kernel

    def distance(i: Rows, j: Rows, num_subsets: int) -> float:
        size, seed = config.subset_size, config.seed
        return kernel_distance(a[i], b[j], num_subsets=num_subsets, subset_size=size, seed=seed)

    return _valued(
        metric,
        lambda i, j: distance(i, j, config.num_subsets),
        (real.videos_N, generated.videos_N),
        protocol,
        better="lower",
        replicate=lambda i, j: distance(i, j, min(config.num_subsets, _SUBSETS_OF_REPLICATE)),
    )


def _inception_score(generated: Extracted, protocol: Protocol) -> MetricValue:
    logits, config = generated.logits_NC, protocol.inception_score
    if logits is None:
        raise DataError("no logits were computed for IS")
    return _valued(
        "IS",
        lambda _, j: inception_score(logits[j], splits=config.splits, seed=config.seed),
        (_NONE, generated.videos_N),
        protocol,
        better="higher",
        floor=1.0,
        warning=FEW_IMAGES if len(logits) < logits.shape[1] else "",
    )


def of_levels(
    metric: str,
    real: tuple[NDArray[np.float64], Rows],
    generated: tuple[NDArray[np.float64], Rows],
    protocol: Protocol,
) -> MetricValue:
    """Return generated over real: 1 is as sharp, or as steady, as real videos are.

    Parameters
    ----------
    real, generated
        The level of each clip, and which video it is of; the real ones' mean is above 0.
    """
    (theirs, their_videos), (ours, our_videos) = real, generated
    return _valued(
        metric,
        lambda i, j: float(ours[j].mean() / max(theirs[i].mean(), np.finfo(float).tiny)),
        (their_videos, our_videos),
        protocol,
        better="neither",
        floor=0.0,
    )


def _valued(
    metric: str,
    statistic: Callable[[Rows, Rows], float],
    videos: tuple[Rows, Rows],
    protocol: Protocol,
    *,
    better: Literal["lower", "higher", "neither"],
    replicate: Callable[[Rows, Rows], float] | None = None,
    floor: float = -np.inf,
    warning: str = "",
) -> MetricValue:
    """Return the statistic of all rows with its interval."""
    num_real, num_generated = map(len, videos)
    value = statistic(np.arange(num_real), np.arange(num_generated))
    interval = bootstrap_interval(
        replicate or statistic,
        *videos,
        value=value,
        resamples=protocol.resamples,
        seed=protocol.seed,
        floor=floor,
    )
    return MetricValue(
        metric=metric,
        value=value,
        low=interval and interval.low,
        high=interval and interval.high,
        num_real=num_real,
        num_generated=num_generated,
        better=better,
        warning=warning,
    )
