"""All numbers of a protocol for one set of generated videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.diagnostics import flicker, sharpness
from feat_fed.evaluate.feature_store import extract_once
from feat_fed.evaluate.features import Extracted, Progress, Running, extract, prepared_clips
from feat_fed.evaluate.frechet import frechet_distance
from feat_fed.evaluate.inception_score import inception_score
from feat_fed.evaluate.intervals import Rows, bootstrap_interval
from feat_fed.evaluate.kernel import kernel_distance
from feat_fed.evaluate.networks import FeatureNetwork
from feat_fed.evaluate.plan import Plan, plan_both
from feat_fed.evaluate.protocol import MetricConfig, MetricName, NetworkName, Protocol
from feat_fed.evaluate.weights import how_to_get, is_published
from feat_fed.measured import MetricValue

SINGULAR = (
    "no more samples than feature dimensions: the covariance is singular and the value too high; "
    "compare at equal counts only"
)
FEW_IMAGES = "fewer images than classes: the score cannot reach its level"
NOT_PUBLISHED = "the network's file is not the published one: compare with nobody else's numbers"

_FRECHET = ("FVD", "CD-FVD", "FID", "FVD-random")
_DIAGNOSTICS = {"sharpness": sharpness, "flicker": flicker}
_SUBSETS_OF_REPLICATE = 10
"""Of KVD and KID: fewer than for the value, so that the interval does not take hours."""

_NONE = np.empty(0, np.intp)


def measure(
    real: ClipSource,
    generated: ClipSource,
    protocol: Protocol,
    networks: Mapping[NetworkName, FeatureNetwork],
    *,
    metrics: Sequence[MetricName] | None = None,
    cache: Path | None = None,
    batch_clips: int = 8,
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
) -> tuple[MetricValue, ...]:
    """Measure generated videos against real ones by a protocol.

    Parameters
    ----------
    networks
        By name, on ``device``; those that no metric uses are left alone.
    metrics
        Some of the protocol's; all of them when ``None``.
    cache
        A folder for the features of the real videos, which are computed once.
    batch_clips
        Clips in memory at once.

    Raises
    ------
    ConfigError
        When a network is missing that a metric must have, with what to fetch for it.
    DataError
        When videos are too few, too short, of sizes that do not go together or unreadable, or a
        feature is not finite.
    """
    chosen = chosen_metrics(protocol, networks, metrics)
    plans = plan_both(real, generated, protocol)
    running = Running(batch_clips, device, on_progress)
    sides = _Side(real, plans[0], protocol), _Side(generated, plans[1], protocol)
    extracted: dict[NetworkName, tuple[Extracted, Extracted]] = {}
    values = []
    for config, name in chosen:
        if name is None:
            values.append(_diagnostic(config.metric, *sides, protocol))
            continue
        if name not in extracted:
            extracted[name] = _both(networks[name], *sides, cache, running)
        value = _of_features(config.metric, *extracted[name], protocol)
        if not is_published(name, networks[name].sha256):
            warning = "; ".join(filter(None, (NOT_PUBLISHED, value.warning)))
            value = value.model_copy(update={"warning": warning})
        values.append(value)
    return tuple(values)


def chosen_metrics(
    protocol: Protocol,
    available: Iterable[NetworkName],
    metrics: Sequence[MetricName] | None = None,
) -> list[tuple[MetricConfig, NetworkName | None]]:
    """Return which metrics are to be measured, each with its network if it takes one.

    Those that are asked for by name, or are not optional, must have it.

    Raises
    ------
    ConfigError
        As by :func:`measure`.
    """
    there = set(available)
    known = {each.metric: each for each in protocol.metrics}
    unknown = [name for name in metrics or () if name not in known]
    if unknown:
        raise ConfigError(
            f"the protocol {protocol.name} has no {unknown[0]}; it has {', '.join(known)}"
        )
    chosen: list[tuple[MetricConfig, NetworkName | None]] = []
    for config in protocol.metrics if metrics is None else [known[name] for name in metrics]:
        network = next((name for name in config.networks if name in there), None)
        if network is not None or not config.networks:
            chosen.append((config, network))
        elif metrics is not None or not config.optional:
            raise ConfigError(f"{config.metric} of {protocol.name}: {_missing(config)}")
    return chosen


def _missing(config: MetricConfig) -> str:
    files = [how_to_get(name) for name in config.networks if name != "random"]
    return "; or ".join(files) or "add the network `random`, which needs no file"


@dataclass(frozen=True)
class _Side:
    source: ClipSource
    plan: Plan
    protocol: Protocol

    @cached_property
    def levels(self) -> dict[str, NDArray[np.float64]]:
        """Each diagnostic of each planned clip, by name."""
        found = [
            [diagnose(clip) for diagnose in _DIAGNOSTICS.values()]
            for clip in prepared_clips(self.source, self.plan, self.protocol)
        ]
        return dict(zip(_DIAGNOSTICS, np.array(found).T, strict=True))

    @property
    def videos(self) -> Rows:
        """Which video each planned clip is of."""
        return np.array([clip.video for clip in self.plan.clips], np.intp)


def _both(
    network: FeatureNetwork, real: _Side, generated: _Side, cache: Path | None, running: Running
) -> tuple[Extracted, Extracted]:
    protocol = real.protocol
    theirs = (
        extract_once(cache, real.source, real.plan, network, protocol, running)
        if cache is not None
        else extract(
            real.source,
            real.plan,
            network,
            protocol,
            running,
            max_images=protocol.real.max_images,
        )
    )
    ours = extract(
        generated.source,
        generated.plan,
        network,
        protocol,
        running,
        max_images=protocol.generated.max_images,
        logits=any(each.metric == "IS" for each in protocol.metrics),
    )
    if theirs.features_ND.shape[1] != ours.features_ND.shape[1]:
        raise DataError(
            f"{network.name} gave {theirs.features_ND.shape[1]} features for a real clip and "
            f"{ours.features_ND.shape[1]} for a generated one: it is not the network it should be"
        )
    return theirs, ours


def _of_features(
    metric: str, real: Extracted, generated: Extracted, protocol: Protocol
) -> MetricValue:
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


def _diagnostic(
    metric: MetricName, real: _Side, generated: _Side, protocol: Protocol
) -> MetricValue:
    """Return generated over real: 1 is as sharp, or as steady, as real videos are."""
    theirs, ours = real.levels[metric], generated.levels[metric]
    if not theirs.mean() > 0:
        raise DataError(
            f"{real.source.name}: the {metric} of the real videos is 0, as of frames of one "
            "colour or that never change; nothing can be compared with it"
        )
    return _valued(
        metric,
        lambda i, j: float(ours[j].mean() / max(theirs[i].mean(), np.finfo(float).tiny)),
        (real.videos, generated.videos),
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
