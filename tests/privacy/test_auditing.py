"""The statistics of an audit in one run, against the paper's figures and known mechanisms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feat_fed.privacy.auditing import (
    LowerBound,
    epsilon_lower_bound,
    lower_bound,
    p_value,
    provable,
)


def test_the_published_p_value() -> None:
    """Appendix D of arXiv 2305.08846."""
    found = p_value(canaries=100, guesses=100, correct=75, epsilon=math.log(3), delta=0)
    assert found == pytest.approx(0.553, abs=1e-3)


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "delta", "published"),
    [
        (100, 100, 75, 0.0, 0.702),
        (100, 100, 75, 1e-4, 0.699),
        (1000, 100, 75, 1e-4, 0.673),
        (100_000, 1510, 1439, 1e-5, 2.675),
    ],
)
def test_the_published_bounds(
    canaries: int, guesses: int, correct: int, delta: float, published: float
) -> None:
    """Appendix D and section 7."""
    found = epsilon_lower_bound(
        canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=0.95
    )
    assert found == pytest.approx(published, abs=1e-3)


def test_all_guesses_right_have_a_closed_form() -> None:
    found = epsilon_lower_bound(canaries=16, guesses=16, correct=16, delta=0, confidence=0.95)
    assert found == pytest.approx(-math.log(0.05 ** (-1 / 16) - 1), abs=1e-9)


@settings(deadline=None)
@given(
    canaries=st.integers(1, 400),
    share=st.floats(0, 1),
    right=st.floats(0, 1),
    delta=st.sampled_from([0.0, 1e-6, 1e-3, 0.05]),
)
def test_a_bound_is_refuted_and_grows_with_what_is_right(
    canaries: int, share: float, right: float, delta: float
) -> None:
    guesses = max(1, round(share * canaries))
    correct = round(right * guesses)

    def bound(correct: int, delta: float = delta) -> float:
        return epsilon_lower_bound(
            canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=0.95
        )

    found = bound(correct)
    assert found <= bound(correct, delta=0.0)
    assert found <= bound(min(guesses, correct + 1)) + 1e-9
    if found:
        chance = p_value(
            canaries=canaries, guesses=guesses, correct=correct, epsilon=found, delta=delta
        )
        assert chance < 0.05


def randomised_response(
    epsilon: float, delta: float, *, canaries: int, rng: np.random.Generator
) -> LowerBound:
    """Let each canary tell how its coin fell, truly with chance e^epsilon / (1 + e^epsilon).

    With chance delta it tells that what it says is certain.
    """
    coins = rng.random(canaries) < 0.5
    true = rng.random(canaries) < 1 / (1 + math.exp(-epsilon))
    certain = rng.random(canaries) < delta
    scores = np.where(coins == (true | certain), 1.0, -1.0) * np.where(certain, 2.0, 1.0)
    scores = scores + 1e-3 * rng.random(canaries)
    return lower_bound(scores.tolist(), coins.tolist(), delta=delta, confidence=0.95)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (1.0, 0.01)])
def test_randomised_response_is_hardly_ever_caught_at_more_than_its_epsilon(
    epsilon: float, delta: float
) -> None:
    rng = np.random.default_rng(1)
    bounds = [randomised_response(epsilon, delta, canaries=150, rng=rng) for _ in range(200)]
    above = sum(each.epsilon > epsilon for each in bounds)
    assert above <= 20, "of 200, of which 10 may be expected, and 21 with a chance of 1 in 1,000"


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_with_many_canaries_the_bound_comes_close(epsilon: float) -> None:
    rng = np.random.default_rng(2)
    found = randomised_response(epsilon, 0.0, canaries=30_000, rng=rng)
    assert 0.9 * epsilon < found.epsilon <= epsilon


def test_the_surest_guesses_are_made() -> None:
    """Of a hundred, those in the middle are wrong."""
    log_odds = [each - 49.5 for each in range(100)]
    included = [each < 50 if 35 <= each < 65 else each >= 50 for each in range(100)]
    found = lower_bound(log_odds, included, delta=0, confidence=0.95)
    assert (found.guesses, found.correct) == (33, 33)
    assert found.epsilon > 1.5
    turned = lower_bound([-each for each in log_odds], included, delta=0, confidence=0.95)
    assert turned.epsilon == 0.0


def test_what_can_be_proven_is_what_all_right_guesses_prove() -> None:
    coins = [each % 3 == 0 for each in range(60)]
    log_odds = [1.0 if each else -1.0 for each in coins]
    found = lower_bound(log_odds, coins, delta=1e-5, confidence=0.95)
    assert found == LowerBound(provable(60, delta=1e-5, confidence=0.95), 60, 60)
    assert provable(600, delta=1e-5, confidence=0.95) > found.epsilon
