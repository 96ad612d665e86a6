"""One evaluation: a model's clips against real ones, by a protocol, as a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.metrics import chosen_metrics, measure
from feat_fed.evaluate.networks import FeatureNetwork
from feat_fed.evaluate.plan import plan_both
from feat_fed.evaluate.protocol import MetricName, NetworkName, Protocol
from feat_fed.evaluator.subject import Subject
from feat_fed.measured import Evaluation

Progress = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and of how much."""

DEFAULT_CLIPS = 256
"""Drawn where neither the caller nor the protocol says how many: minutes on a CPU, not hours."""


def evaluate(
    subject: Subject,
    real: ClipSource,
    protocol: Protocol,
    networks: Mapping[NetworkName, FeatureNetwork],
    *,
    metrics: Sequence[MetricName] | None = None,
    cache: Path | None = None,
    batch_clips: int = 8,
    device: torch.device | str = "cpu",
    on_progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Make a subject's clips and measure them against a benchmark's.

    The same subject, videos, protocol and networks give the same numbers on one machine with one
    number of threads.

    Parameters
    ----------
    metrics, cache, batch_clips, device
        As in :func:`feat_fed.evaluate.metrics.measure`.

    Raises
    ------
    ConfigError
        When a network is missing, before any clip is drawn.
    DataError
        When there are too few videos, or they are too short or unreadable, before any clip is
        drawn as well; when a feature is not finite.
    StorageError
        When there is no room for the clips.
    """
    began = time.monotonic()
    used = chosen_metrics(protocol, networks, metrics)
    plan_both(real, subject.like, protocol)
    benchmark_digest = real.digest
    clips = subject.make(lambda done, total: on_progress("drawing clips", done, total))
    found = measure(
        real,
        clips,
        protocol,
        networks,
        metrics=metrics,
        cache=cache,
        batch_clips=batch_clips,
        device=device,
        on_progress=on_progress,
    )
    return Evaluation(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        source=subject.source,
        round=subject.round,
        weights=subject.weights,
        weights_sha256=subject.weights_sha256,
        benchmark=real.name,
        benchmark_digest=benchmark_digest,
        protocol=protocol.name,
        protocol_digest=protocol.digest(),
        networks={name: networks[name].sha256 for _, name in used if name is not None},
        sampler=subject.sampler,
        seed=subject.seed,
        metrics=found,
    )


def clips_wanted(protocol: Protocol, num_clips: int | None = None) -> int:
    """Return how many clips to draw for a protocol; ``num_clips`` where somebody said so."""
    return num_clips or protocol.generated.num_clips or DEFAULT_CLIPS
