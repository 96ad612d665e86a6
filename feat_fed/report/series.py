"""Numbers by round as arrays, thinned where a study is too long for a picture.

Shapes: R rounds, B bins of consecutive rounds, S sites.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from feat_fed.report.records import RoundRecord, SiteRound

Float64Array = NDArray[np.float64]

MOST_POINTS = 200
"""Of a curve: more are not told apart at the width of a page."""


@dataclass(frozen=True)
class Series:
    """One number over the rounds, of all sites and of each; NaN where it is not known."""

    x_B: Float64Array
    """The middle of each bin."""
    all_B: Float64Array
    sites: dict[str, Float64Array]
    """By name, in order; each (B,)."""

    def stacked(self) -> Float64Array:
        """Return the sites' numbers as (S, B)."""
        return np.stack(list(self.sites.values()))


def series(
    rounds: Sequence[RoundRecord],
    of_round: Callable[[RoundRecord], float | None],
    of_site: Callable[[SiteRound], float | None],
    *,
    most: int = MOST_POINTS,
    absent: float = math.nan,
) -> Series:
    """Collect a number over the rounds; of more rounds than ``most``, means over bins.

    Parameters
    ----------
    absent
        What counts for a site in a round that it was not asked in.
    """
    names = sorted({part.site for record in rounds for part in record.sites})
    table_SR = {name: np.full(len(rounds), absent) for name in names}
    for index, record in enumerate(rounds):
        for part in record.sites:
            table_SR[part.site][index] = _known(of_site(part))
    all_R = [_known(of_round(record)) for record in rounds]
    return Series(
        thinned([record.round for record in rounds], most=most),
        thinned(all_R, most=most),
        {name: thinned(values, most=most) for name, values in table_SR.items()},
    )


def thinned(values_R: ArrayLike, *, most: int = MOST_POINTS) -> Float64Array:
    """Return the means of up to ``most`` bins of neighbours, of known values only."""
    values = np.asarray(values_R, dtype=float)
    if len(values) <= most:
        return values
    starts_B = bin_starts(len(values), most=most)
    known_R = np.isfinite(values)
    sum_B = np.add.reduceat(np.where(known_R, values, 0.0), starts_B)
    count_B = np.add.reduceat(known_R.astype(float), starts_B)
    means_B = np.full(len(starts_B), np.nan)
    np.divide(sum_B, count_B, out=means_B, where=count_B > 0)
    return means_B


def bin_starts(number: int, *, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Return where each bin begins, (B,); the bins' sizes differ by one at most."""
    return (np.arange(min(number, most)) * number) // min(number, most)


def rounds_a_point(number: int, *, most: int = MOST_POINTS) -> int:
    """Return the most rounds that a point of a curve stands for."""
    return max(1, math.ceil(number / most))


def evenly(number: int, *, most: int) -> list[int]:
    """Return up to ``most`` of the indices 0 to number - 1, evenly, the first and last in it."""
    if number <= most:
        return list(range(number))
    return sorted({round(each) for each in np.linspace(0, number - 1, most)})


def _known(value: float | None) -> float:
    return math.nan if value is None else value
