"""What a mechanism was caught at: a lower bound on epsilon from one run with many canaries.

Steinke, Nasr and Jagielski, *Privacy auditing with one (1) training run*, arXiv 2305.08846. Each
of m canaries is in the training by a fair coin. An observer of what came out of it guesses how the
coins fell, of those that it is surest of. Differential privacy bounds how many guesses are right by
chance; more of them prove that epsilon is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SHARES = (1.0, 1 / 3, 1 / 10)
"""Of the canaries, for which guesses are made: all of them show a leak in full, few a small one."""

_LARGEST = 64.0
"""Epsilon beyond any that so many guesses could prove."""
_HALVINGS = 50


@dataclass(frozen=True)
class LowerBound:
    """An epsilon that the mechanism does not keep below, but for a small chance of error."""

    epsilon: float
    guesses: int
    correct: int


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return the largest chance of so many correct guesses of an (epsilon, delta)-DP mechanism.

    Theorem 5.2 for guesses that are right, wrong or not made: with f(v) the chance that at least v
    of the guesses are right where each is so with probability e^epsilon / (1 + e^epsilon),

        f(v) + 2 m delta max_i (f(v - i) - f(v)) / i,  i = 1 ... v.

    Without delta it is Proposition 5.1.

    Parameters
    ----------
    canaries
        m, each of which is in or out by a fair coin.
    guesses
        That were made, at most m.
    """
    right = 1.0 / (1.0 + math.exp(-epsilon))
    by_chance = float(stats.binom.sf(correct - 1, guesses, right))
    if not correct or not delta:
        return min(1.0, by_chance)
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    steepest = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, by_chance + 2.0 * canaries * delta * steepest)


def epsilon_lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """Return about the largest epsilon that so many correct guesses refute; 0 if they refute none.

    Found by bisection from below: what is returned is refuted, and with it all that is smaller.
    """

    def refuted(epsilon: float) -> bool:
        chance = p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta
        )
        return chance < 1.0 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _LARGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def lower_bound(
    log_odds: Sequence[float], included: Sequence[bool], *, delta: float, confidence: float
) -> LowerBound:
    """Guess that canaries with odds above 1 are in, and the others out; the surest guesses count.

    It is the best of the bounds for :data:`SHARES` of the canaries; the chance of error is divided
    among them (Corollary 5.8), so that ``confidence`` holds for the best, too.

    Parameters
    ----------
    log_odds
        Of each canary to be in, made without knowledge of ``included``.
    included
        How the coins fell.
    """
    odds = np.asarray(log_odds, dtype=np.float64)
    right = (odds > 0) == np.asarray(included, dtype=bool)
    right = right[np.argsort(-np.abs(odds), kind="stable")]
    bounds = []
    for guesses in _numbers(len(right)):
        correct = int(np.sum(right[:guesses]))
        epsilon = epsilon_lower_bound(
            canaries=len(right),
            guesses=guesses,
            correct=correct,
            delta=delta,
            confidence=_shared_out(confidence),
        )
        bounds.append(LowerBound(epsilon, guesses, correct))
    return max(bounds, key=lambda each: each.epsilon)


def provable(canaries: int, *, delta: float, confidence: float) -> float:
    """Return the most that so many canaries can prove: the bound if every guess is right."""
    return epsilon_lower_bound(
        canaries=canaries,
        guesses=canaries,
        correct=canaries,
        delta=delta,
        confidence=_shared_out(confidence),
    )


def _numbers(canaries: int) -> list[int]:
    """Return the numbers of guesses that are tried, which must not depend on the scores."""
    return [max(1, round(share * canaries)) for share in SHARES]


def _shared_out(confidence: float) -> float:
    return 1.0 - (1.0 - confidence) / len(SHARES)
