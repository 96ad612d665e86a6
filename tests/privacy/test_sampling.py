"""Who takes part, against the binomial distribution; bounds fail once in 10^9 runs at most."""

from __future__ import annotations

import random

import numpy as np
from scipy import stats

from feat_fed.privacy.sampling import poisson_sample

NEVER = 1e-10


def test_everybody_takes_part_by_chance_and_by_itself() -> None:
    draws, number, rate = 4000, 40, 0.15
    took_part = np.zeros((draws, number))
    for row in took_part:
        row[poisson_sample(number, rate=rate)] = 1.0
    low, high = stats.binom.interval(1 - NEVER, draws, rate)
    assert (took_part.sum(axis=0) >= low).all() and (took_part.sum(axis=0) <= high).all()
    # Sizes of the batches are binomial, and no two are bound together.
    sizes = np.bincount(took_part.sum(axis=1).astype(int), minlength=number + 1)
    expected = draws * stats.binom.pmf(range(number + 1), number, rate)
    usual = expected > 20
    chi_square = float((((sizes - expected) ** 2 / expected)[usual]).sum())
    assert chi_square < stats.chi2.isf(NEVER, usual.sum())
    pairs = np.triu(np.corrcoef(took_part.T), k=1)
    assert np.abs(pairs).max() < 8 / np.sqrt(draws)


def test_the_ends_of_the_rate() -> None:
    assert poisson_sample(5, rate=1.0) == [0, 1, 2, 3, 4]
    assert poisson_sample(5, rate=1e-300) == []
    assert poisson_sample(0, rate=0.5) == []


def test_no_seed_has_a_say() -> None:
    drawn = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        drawn.append(poisson_sample(1000, rate=0.5))
    assert drawn[0] != drawn[1]
