"""The numbers of central privacy against the papers' formulas and a closed form."""

import math

import numpy as np
import pytest
from flwr.supercore.differential_privacy import compute_adaptive_noise_params
from scipy.optimize import brentq
from scipy.special import ndtr

from feat_fed.config.privacy import CentralPrivacyConfig
from feat_fed.errors import ConfigError
from feat_fed.privacy.central import central_noise, next_clip_norm, spent, updates_noise

DELTA = 1e-5


def gaussian_epsilon(noise: float, steps: int) -> float:
    """Exact: Balle and Wang, arXiv 1805.06530, theorem 8, of steps that are one of more noise."""
    mu = math.sqrt(steps) / noise

    def excess(epsilon: float) -> float:
        tail = math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu)
        return float(ndtr(mu / 2 - epsilon / mu) - tail - DELTA)

    return float(brentq(excess, 0.0, 500.0))


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 20), (20.0, 300)])
def test_a_hospitals_epsilon_is_bounded_by_rdp_and_prv_comes_close(
    noise: float, rounds: int
) -> None:
    exact = gaussian_epsilon(noise, rounds)
    found = spent([noise] * rounds, delta=DELTA, of_a_patient=False)
    assert exact <= found.rdp <= 1.15 * exact
    assert found.prv == pytest.approx(exact, rel=0.03)
    assert found.prv >= exact


def test_a_patient_is_hidden_by_half_of_the_noise() -> None:
    """A patient who leaves makes another update of the hospital's, and not none."""
    found = spent([8.0] * 10, delta=DELTA, of_a_patient=True)
    assert gaussian_epsilon(4.0, 10) <= found.rdp
    assert found == spent([4.0] * 10, delta=DELTA, of_a_patient=False)


def test_who_took_part_in_nothing_has_spent_nothing() -> None:
    assert spent([], delta=DELTA, of_a_patient=False).rdp == 0.0


@pytest.mark.parametrize(("noise", "count"), [(0.5, 1.0), (1.0, 1.0), (1.9, 1.0), (6.0, 6.0)])
def test_updates_and_count_together_spend_what_is_claimed(noise: float, count: float) -> None:
    updates = updates_noise(noise, count_noise=count)
    # One Gaussian mechanism: sensitivities 1 and 1/2, over their standard deviations.
    assert math.hypot(1 / updates, 0.5 / count) == pytest.approx(1 / noise, rel=1e-12)
    assert compute_adaptive_noise_params(noise, 10, count)[1] == pytest.approx(updates, rel=1e-12)


def test_a_count_that_spends_all_is_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match="raise it above 2, or leave it out"):
        updates_noise(4.0, count_noise=2.0)
    with pytest.raises(ValueError, match="raise it above 2, or leave it out"):
        CentralPrivacyConfig(clipping="adaptive", noise_multiplier=4.0, count_noise=1.0)


@pytest.mark.parametrize(
    ("noise", "sites", "count"), [(0.5, 3, 1.0), (0.5, 60, 3.0), (7.0, 3, 7.0)]
)
def test_the_counts_noise_where_nothing_is_set(noise: float, sites: int, count: float) -> None:
    config = CentralPrivacyConfig(clipping="adaptive", noise_multiplier=noise)
    found = central_noise(config, min_sites=sites)
    assert (found.claimed, found.count) == (noise, count)
    assert found.updates <= 2 / math.sqrt(3) * noise * (1 + 1e-12)


def test_noise_that_is_not_known_yet_adds_none() -> None:
    with pytest.raises(ConfigError, match="noise_multiplier is not set"):
        central_noise(CentralPrivacyConfig(epsilon=3.0), min_sites=3)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.01, 1000.0])
def test_the_bound_goes_to_the_quantile_of_the_norms(quantile: float, start: float) -> None:
    config = CentralPrivacyConfig(
        clipping="adaptive", noise_multiplier=1.0, target_quantile=quantile
    )
    chance = np.random.default_rng(1)
    norms = chance.lognormal(0.5, 0.7, (900, 100))
    bound, late = start, []
    for at, each in enumerate(norms):
        share = float((each <= bound).mean() + chance.normal(0, 5) / each.size)
        bound = next_clip_norm(bound, share_within=share, config=config)
        if at >= 500:
            late.append(bound)
    assert np.exp(np.mean(np.log(late))) == pytest.approx(np.quantile(norms, quantile), rel=0.1)


def test_one_step_of_the_bound_by_hand() -> None:
    config = CentralPrivacyConfig(noise_multiplier=1.0, clip_learning_rate=0.2, target_quantile=0.5)
    assert next_clip_norm(2.0, share_within=0.9, config=config) == pytest.approx(
        2.0 * math.exp(-0.08)
    )


def study(**central: object) -> dict[str, object]:
    return {
        "name": "x",
        "model": {"in_channels": 6},
        "sites": {"minimum": 3},
        "strategy": {"weigh_by": "equal"},
        "privacy": {"central": {"noise_multiplier": 1.0, **central}, "secure_aggregation": {}},
    }
