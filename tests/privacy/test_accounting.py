import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feat_fed.errors import ConfigError
from feat_fed.privacy import accounting
from feat_fed.privacy.accounting import NoisySteps, noise_for, prv_epsilon, rdp_epsilon

PUBLISHED = NoisySteps(noise_multiplier=1.1, sample_rate=0.01, steps=10_000)

KINDS = st.builds(
    NoisySteps, st.floats(0.9, 20), st.sampled_from([0.001, 0.01, 0.1, 1.0]), st.integers(1, 5_000)
)


def test_the_published_setting() -> None:
    # dp-accounting gives 5.63201 by RDP and, by its own numerical bound, 5.193 to 5.196.
    assert rdp_epsilon([PUBLISHED], delta=1e-5) == pytest.approx(5.63199, abs=1e-5)
    assert prv_epsilon([PUBLISHED], delta=1e-5) == pytest.approx(5.2029, abs=1e-4)


@given(noise=st.floats(0.5, 100), steps=st.integers(1, 1000), power=st.integers(3, 9))
@settings(max_examples=50, deadline=None)
def test_without_sampling_it_is_the_gaussian_mechanism(
    noise: float, steps: int, power: int
) -> None:
    # Mironov, arXiv 1702.07476: order a of Gaussian noise is a / (2 noise^2), and its bound on
    # epsilon at the best order. The accountant's conversion is never worse than that.
    rho = steps / (2 * noise**2)
    known = rho + 2 * math.sqrt(rho * math.log(10.0**power))
    epsilon = rdp_epsilon([NoisySteps(noise, 1.0, steps)], delta=10.0**-power)
    assert epsilon <= known * 1.05
    # No mechanism of this noise can promise less than the exact bound of Balle and Wang.
    assert _gaussian_delta(epsilon, steps, noise) <= 10.0**-power


def _gaussian_delta(epsilon: float, steps: int, noise: float) -> float:
    """Return the exact delta of so many Gaussian releases (arXiv 1805.06530, Theorem 8)."""
    from scipy.stats import norm

    mu = math.sqrt(steps) / noise
    first = norm.cdf(mu / 2 - epsilon / mu)
    return float(first - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)))


@given(kind=KINDS, cut=st.floats(0, 1))
@settings(max_examples=8, deadline=None)
def test_steps_in_parts_spend_what_they_spend_at_once(kind: NoisySteps, cut: float) -> None:
    first = round(kind.steps * cut)
    parts = [
        NoisySteps(kind.noise_multiplier, kind.sample_rate, each)
        for each in (first, 0, kind.steps - first)
    ]
    assert rdp_epsilon(parts, delta=1e-5) == rdp_epsilon([kind], delta=1e-5)


@given(one=KINDS, other=KINDS)
@settings(max_examples=8, deadline=None)
def test_two_studies_spend_more_than_one_and_less_than_the_sum(
    one: NoisySteps, other: NoisySteps
) -> None:
    single = [rdp_epsilon([each], delta=1e-5) for each in (one, other)]
    both = rdp_epsilon([one, other], delta=1e-5)
    assert both == rdp_epsilon([other, one], delta=1e-5)
    assert max(single) <= both
    # Basic composition needs twice the delta, so that it is no bound at this one by itself.
    assert rdp_epsilon([one, other], delta=2e-5) <= sum(single) * (1 + 1e-9)


def test_nothing_spends_nothing() -> None:
    assert rdp_epsilon([], delta=1e-5) == 0
    assert rdp_epsilon([NoisySteps(1.0, 0.1, 0)], delta=1e-5) == 0
    assert prv_epsilon([], delta=1e-5) == 0
    assert rdp_epsilon([NoisySteps(1e4, 0.1, 1)], delta=1e-2) == 0  # and never less


@given(noise=st.floats(0.7, 10), rate=st.sampled_from([0.01, 0.1, 1.0]), steps=st.integers(1, 1000))
@settings(max_examples=6, deadline=None)
def test_prv_is_the_closer_bound(noise: float, rate: float, steps: int) -> None:
    history = [NoisySteps(noise, rate, steps)]
    bound = rdp_epsilon(history, delta=1e-5)
    assume(0.1 < bound < 50)
    closer = prv_epsilon(history, delta=1e-5)
    assert closer is not None
    assert 0 < closer <= bound * 1.02  # its own error is that of its grid


@pytest.mark.parametrize(
    "hopeless",
    [
        NoisySteps(0.01, 0.01, 100),
        NoisySteps(1.0, 0.5, 10_000),
        NoisySteps(1.1, 0.1, 10**7),
        NoisySteps(1e-3, 1.0, 1),
    ],
)
def test_where_too_much_is_spent_there_is_a_bound_by_rdp_alone(hopeless: NoisySteps) -> None:
    assert 100 < rdp_epsilon([hopeless], delta=1e-5) < math.inf
    assert prv_epsilon([hopeless], delta=1e-5) is None


@pytest.mark.parametrize(
    "long", [NoisySteps(5.0, 0.01, 10**7), NoisySteps(50.0, 1e-5, 10**6), NoisySteps(1e3, 1.0, 1)]
)
def test_the_grid_of_prv_is_bounded(long: NoisySteps, monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.accountants.analysis.prv import Domain

    sizes: list[int] = []
    make = Domain.create_aligned

    def create_aligned(*limits: float) -> Domain:
        domain = make(*limits)
        sizes.append(domain.size)
        return domain

    monkeypatch.setattr(Domain, "create_aligned", create_aligned)
    monkeypatch.setattr(accounting, "_MOST_POINTS", 2**16)
    closer = prv_epsilon([long], delta=1e-6)
    assert closer is None or sizes
    assert all(each <= 2**16 * 1.1 for each in sizes)


@given(
    epsilon=st.floats(0.1, 12),
    power=st.integers(4, 8),
    rate=st.sampled_from([0.01, 0.1, 1.0]),
    steps=st.integers(1, 2_000),
)
@settings(max_examples=3, deadline=None)
def test_noise_is_enough_for_an_epsilon_and_not_much_more(
    epsilon: float, power: int, rate: float, steps: int
) -> None:
    delta = 10.0**-power
    noise = noise_for(epsilon=epsilon, delta=delta, sample_rate=rate, steps=steps)

    def spent(multiplier: float) -> float:
        return rdp_epsilon([NoisySteps(multiplier, rate, steps)], delta=delta)

    assert spent(noise) <= epsilon
    assert noise == accounting.LEAST_NOISE or spent(noise * 0.997) > epsilon
    assert len(f"{noise:g}".replace(".", "").strip("0")) <= 4


def test_an_epsilon_that_no_noise_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no noise makes 1000000 steps .* take fewer steps"):
        noise_for(epsilon=1e-3, delta=1e-5, sample_rate=1.0, steps=10**6)


def test_there_is_always_some_noise() -> None:
    noise = noise_for(epsilon=1000, delta=0.01, sample_rate=1.0, steps=1)
    assert noise == accounting.LEAST_NOISE


@pytest.mark.parametrize(
    ("noise", "rate"), [(1000.0, 1e-8), (100.0, 1e-10), (0.5, 1e-10), (1000.0, 1e-6)]
)
def test_steps_that_spend_next_to_nothing_take_nothing_back(noise: float, rate: float) -> None:
    # Opacus's divergence of one such step is below 0 at most orders, by rounding.
    spent = NoisySteps(1.0, 0.05, 1000)
    both = [spent, NoisySteps(noise, rate, 10**18)]
    assert rdp_epsilon(both, delta=1e-5) >= rdp_epsilon([spent], delta=1e-5)


def test_what_cannot_be_computed_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.accountants.analysis import rdp

    monkeypatch.setattr(rdp, "compute_rdp", lambda orders, **_: [math.nan for _ in orders])
    accounting._rdp_of_a_step.cache_clear()
    try:
        assert rdp_epsilon([NoisySteps(1.0, 0.5, 1)], delta=1e-5) == math.inf
    finally:
        accounting._rdp_of_a_step.cache_clear()
