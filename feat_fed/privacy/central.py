"""Central privacy in numbers: the noise of its two sums, the moving bound, what rounds spend.

A round releases the mean of the updates of m sites, each clipped to C, with noise of standard
deviation z C / m on each coordinate (DP-FedAvg, McMahan et al., arXiv 1710.06963). Adaptive
clipping (Andrew et al., arXiv 1905.03871) releases the share of updates within C beside it.

Two adjacencies, both with m and the round's sites as given:

- of a hospital: its update vanishes, its place in the mean stays (zero-out, Kairouz et al., arXiv
  2103.00039). The mean moves by at most C / m, so that z hides it;
- of a patient who is at this hospital alone: the hospital's update becomes any other. The mean
  moves by at most 2 C / m, so that half of z hides it.

No round is amplified by sampling: who is asked follows from the study's seed, which all sites know.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from feat_fed.config.privacy import CentralPrivacyConfig
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import NoisySteps, prv_epsilon, rdp_epsilon

_SITES_PER_COUNT_NOISE = 20


@dataclass(frozen=True)
class CentralNoise:
    """What one round's two sums are noised with.

    Parameters
    ----------
    claimed
        Noise multiplier of the whole round: both sums together spend what it says.
    updates
        Noise multiplier of the sum of updates, z_Delta; larger than ``claimed`` where there is a
        count beside it.
    count
        Standard deviation of the noise on the count of updates within the bound, sigma_b; None
        where clipping is fixed.
    """

    claimed: float
    updates: float
    count: float | None = None


def central_noise(config: CentralPrivacyConfig, *, min_sites: int) -> CentralNoise:
    """Return the noise of a study's rounds.

    Raises
    ------
    ConfigError
        If the noise multiplier is not known yet, or the count's noise leaves nothing for updates.
    """
    z = config.noise_multiplier
    if z is None:
        raise ConfigError("privacy.central.noise_multiplier is not set, nor found from epsilon yet")
    if config.clipping == "fixed":
        return CentralNoise(z, z)
    count = config.count_noise or max(1.0, min_sites / _SITES_PER_COUNT_NOISE, z)
    return CentralNoise(z, updates_noise(z, count_noise=count), count)


def updates_noise(noise_multiplier: float, *, count_noise: float) -> float:
    """Return z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2) (arXiv 1905.03871, theorem 1).

    A site adds 1/2 or -1/2 to the centred count, so that its noise multiplier is 2 sigma_b; both
    sums are one Gaussian mechanism with noise multiplier z.

    Raises
    ------
    ConfigError
        If the count alone spends all of it.
    """
    if noise_multiplier >= 2 * count_noise:
        raise ConfigError(
            f"privacy.central.count_noise is {count_noise:g}, with which the count alone spends "
            f"more than noise_multiplier {noise_multiplier:g} allows; raise it above "
            f"{noise_multiplier / 2:g}, or leave it out"
        )
    ratio = noise_multiplier / (2 * count_noise)
    return noise_multiplier / math.sqrt(1 - ratio * ratio)


def noise_over_signal(noise: CentralNoise, *, num_sites: int, num_weights: int) -> float:
    """Return how much longer a round's noise is than the longest mean of updates can be.

    The noise has about the length z C sqrt(d) / m of d weights, and a mean of clipped updates C at
    most. Updates of sites that agree add up over rounds, noise by the root of their number.
    """
    return noise.updates * math.sqrt(num_weights) / num_sites


def next_clip_norm(clip_norm: float, *, share_within: float, config: CentralPrivacyConfig) -> float:
    """Return C exp(-eta_C (b - gamma)) (arXiv 1905.03871, section 2).

    Parameters
    ----------
    share_within
        b: noised share of the round's updates that were within the bound.
    """
    excess = share_within - config.target_quantile
    return clip_norm * math.exp(-config.clip_learning_rate * excess)


@dataclass(frozen=True)
class Epsilon:
    """Two bounds on what was spent; the first one counts."""

    rdp: float
    prv: float | None
    """None where its numerics do not reach."""


def spent(noise_multipliers: Iterable[float], *, delta: float, of_a_patient: bool) -> Epsilon:
    """Return what a hospital's rounds have spent of it, or of a patient who is nowhere else.

    Parameters
    ----------
    noise_multipliers
        Those claimed of the rounds in which the hospital took part.
    """
    share = 0.5 if of_a_patient else 1.0
    counts = Counter(share * each for each in noise_multipliers)
    return _spent(tuple(sorted(counts.items())), delta)


@functools.lru_cache(maxsize=256)
def _spent(counts: tuple[tuple[float, int], ...], delta: float) -> Epsilon:
    """Return the same of steps by their noise; most hospitals of a study have the same ones."""
    history = [NoisySteps(noise, sample_rate=1.0, steps=steps) for noise, steps in counts]
    return Epsilon(rdp_epsilon(history, delta=delta), prv_epsilon(history, delta=delta))
