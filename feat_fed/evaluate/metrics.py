"""All numbers of a protocol for one set of generated videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.diagnostics import flicker, sharpness
from feat_fed.evaluate.feature_store import extract_once
from feat_fed.evaluate.features import Extracted, Progress, Running, extract, prepared_clips
from feat_fed.evaluate.intervals import Rows
from feat_fed.evaluate.networks import FeatureNetwork
from feat_fed.evaluate.plan import Plan, plan_both
from feat_fed.evaluate.protocol import MetricConfig, MetricName, NetworkName, Protocol
from feat_fed.evaluate.values import of_features, of_levels
from feat_fed.evaluate.weights import how_to_get, is_published
from feat_fed.measured import MetricValue

NOT_PUBLISHED = "the network's file is not the published one: compare with nobody else's numbers"

_DIAGNOSTICS = {"sharpness": sharpness, "flicker": flicker}


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
            logits = any(each.metric == "IS" for each, _ in chosen)
            extracted[name] = _both(networks[name], *sides, cache, running, logits=logits)
        value = of_features(config.metric, *extracted[name], protocol)
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
    network: FeatureNetwork,
    real: _Side,
    generated: _Side,
    cache: Path | None,
    running: Running,
    *,
    logits: bool,
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
        logits=logits,
    )
    if theirs.features_ND.shape[1] != ours.features_ND.shape[1]:
        raise DataError(
            f"{network.name} gave {theirs.features_ND.shape[1]} features for a real clip and "
            f"{ours.features_ND.shape[1]} for a generated one: it is not the network it should be"
        )
    return theirs, ours


def _diagnostic(
    metric: MetricName, real: _Side, generated: _Side, protocol: Protocol
) -> MetricValue:
    theirs, ours = ((side.levels[metric], side.videos) for side in (real, generated))
    if not theirs[0].mean() > 0:
        raise DataError(
            f"{real.source.name}: the {metric} of the real videos is 0, as of frames of one "
            "colour or that never change; nothing can be compared with it"
        )
    return of_levels(metric, theirs, ours, protocol)
