"""Central privacy: a strategy's mean of updates becomes one of clipped updates with noise.

Updates are read from the inbox a group of tensors at a time, and a site at a time, so that memory
holds no whole update. All that is random follows from the round's secret:
a round that is aggregated again after a kill releases the same bytes, which is one release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.config.privacy import CentralPrivacyConfig
from feat_fed.errors import FederationError
from feat_fed.privacy.central import (
    CentralNoise,
    central_noise,
    next_clip_norm,
    noise_over_signal,
)
from feat_fed.privacy.updates import clip_factor
from feat_fed.report.records import CentralRecord
from feat_fed_server.inbox import Arrived, Inbox
from feat_fed_server.seeded_noise import SeededNoise
from feat_fed_server.strategy import ServerStrategy, groups
from feat_fed_server.summed import Summed, moved_by

_COPIES = 8
"""Of a group in memory: sum, noise and one update in float64, with what they are made of."""
_DOUBLE_ROUNDING = 1e-9
_LOUD = 10.0
"""Noise over the longest mean update, from which on a word is due."""


@dataclass(frozen=True)
class NoisyMean:
    """The Gaussian mechanism of one round, over sums of clipped updates.

    Parameters
    ----------
    clip_norm
        C: longest update that is in the sum.
    num_sites
        m: sites whose updates are in the sum.
    """

    noise: CentralNoise
    clip_norm: float
    num_sites: int
    seeded: SeededNoise

    @classmethod
    def drawn(
        cls, noise: CentralNoise, *, clip_norm: float, num_sites: int, seed: str
    ) -> NoisyMean:
        """Return the round's, by its secret: other numbers for another noise, bound or mean."""
        about = f"{noise} {clip_norm!r} {num_sites}"
        return cls(noise, clip_norm, num_sites, SeededNoise(seed, about))

    @property
    def standard_deviation(self) -> float:
        """Of the noise on each coordinate of the mean: z C / m."""
        return self.noise.updates * self.clip_norm / self.num_sites

    def of_sum(self, name: str, total: Tensor) -> Tensor:
        """Return the mean of a tensor of updates, in float64, from their sum."""
        noise = self.seeded.normal(f"weights/{name}", tuple(total.shape))
        return noise.mul_(self.standard_deviation).add_(total.double() / self.num_sites)

    def share_within(self, count: int) -> float | None:
        """Return the noised share of updates within the bound; None where clipping is fixed."""
        if self.noise.count is None:
            return None
        noise = float(self.seeded.normal("count", (1,)))
        return (count + self.noise.count * noise) / self.num_sites


@dataclass(frozen=True)
class PrivateRound:
    """What a round comes to under central privacy."""

    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    record: CentralRecord
    clip_norm: float
    """Of the next round."""


class CentralStrategy:
    """A study's strategy, over a noisy mean.

    Parameters
    ----------
    inner
        What is done with the mean; after the noise, so that it spends nothing.

    Raises
    ------
    ConfigError
        If the study's noise is not known, or its parts do not fit.
    """

    def __init__(
        self, inner: ServerStrategy, config: CentralPrivacyConfig, *, min_sites: int
    ) -> None:
        self._inner = inner
        self._config = config
        self._min_sites = min_sites
        self._noise = central_noise(config, min_sites=min_sites)

    @classmethod
    def of(cls, study: StudyConfig, inner: ServerStrategy) -> CentralStrategy | None:
        """Return the study's, if it has central privacy."""
        central = study.privacy.central
        if central is None:
            return None
        return cls(inner, central, min_sites=study.sites.minimum)

    def warning(self, weights: Mapping[str, Tensor], *, num_sites: int) -> str | None:
        """Return what the coordinator should know of the noise beforehand, if it is large."""
        floats = sum(each.numel() for each in weights.values() if each.is_floating_point())
        sites = max(self._min_sites, num_sites)
        times = noise_over_signal(self._noise, num_sites=sites, num_weights=floats)
        if times < _LOUD:
            return None
        return (
            f"privacy.central: with {sites} sites the noise of a round is about {times:,.0f} times "
            f"as long as the longest mean update of this model's {floats:,} weights; more sites or "
            "a smaller model are what helps"
        )

    def clip_norm(self, moved: float | None) -> float:
        """Return a round's bound.

        Parameters
        ----------
        moved
            That the round before left; None: there was none.
        """
        return self._config.clip_norm if moved is None else moved

    def release(
        self,
        round_number: int,
        summed: Summed,
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        *,
        clip_norm: float,
        seed: str,
    ) -> PrivateRound:
        """Return what a sum of updates comes to, none of which is longer than ``clip_norm``.

        Parameters
        ----------
        summed
            Of at least one site.
        seed
            The round's secret, by :func:`~feat_fed_server.seeded_noise.new_seed`.

        Raises
        ------
        FederationError
            If the result is not finite.
        """
        mean = NoisyMean.drawn(
            self._noise, clip_norm=clip_norm, num_sites=summed.num_sites, seed=seed
        )
        means = noisy_means(mean, summed, previous)
        weights, optimiser = self._inner.finish(round_number, means, previous, state)
        share = mean.share_within(summed.num_within)
        record = CentralRecord(
            release=mean.seeded.name,
            clip_norm=clip_norm,
            noise_multiplier=self._noise.claimed,
            share_within=share,
        )
        if share is not None:
            clip_norm = next_clip_norm(clip_norm, share_within=share, config=self._config)
        return PrivateRound(weights, optimiser, record, clip_norm)


def noisy_means(
    mean: NoisyMean, summed: Summed, previous: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the noisy mean of the sites' weights, group for group, in float32 at least."""
    for totals in summed.totals:
        yield {
            name: moved_by(previous[name], mean.of_sum(name, total))
            for name, total in totals.items()
        }


def clipped_sum(inbox: Inbox, previous: Mapping[str, Tensor], *, clip_norm: float) -> Summed:
    """Return the sum of an inbox's updates, each clipped.

    Reading its last group raises :class:`FederationError` if what was added of a site is longer
    than the bound.
    """
    arrived = inbox.arrived()
    within = sum(_is_within(each, clip_norm) for each in arrived)
    return Summed(len(arrived), within, _clipped_totals(inbox, previous, clip_norm=clip_norm))


def _clipped_totals(
    inbox: Inbox, previous: Mapping[str, Tensor], *, clip_norm: float
) -> Iterator[dict[str, Tensor]]:
    squares = {each.report.site: 0.0 for each in inbox.arrived()}
    factors = {
        each.report.site: clip_factor(each.norm, clip_norm=clip_norm) for each in inbox.arrived()
    }
    for names in groups(previous, _COPIES):
        before = {name: previous[name].double() for name in names}
        total = {name: torch.zeros_like(each) for name, each in before.items()}
        for site, factor in factors.items():
            for name, weights in inbox.read(site, names).items():
                move = (weights.double() - before[name]).mul_(factor)
                squares[site] += float(move.square().sum())
                total[name] += move
        yield total
    for site, square in squares.items():
        if not square <= (clip_norm * (1 + _DOUBLE_ROUNDING)) ** 2:
            raise FederationError(
                f"the update of {site} in the inbox is not as long as was noted when it came; "
                "nothing is released: remove the round's inbox, and the sites are asked again"
            )


def _is_within(arrived: Arrived, clip_norm: float) -> bool:
    """Whether an update had the bound's length at most before the site clipped it, too."""
    told = arrived.report.within_clip_norm
    return arrived.norm <= clip_norm if told is None else told
