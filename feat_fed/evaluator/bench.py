"""What the rounds of a run are measured with, opened once: benchmark, protocol, networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.config import (
    ComputeConfig,
    EvaluationConfig,
    NetworkFileConfig,
    SamplerConfig,
    validate,
)
from feat_fed.errors import ConfigError
from feat_fed.evaluate.benchmarks import load_benchmark, open_benchmark
from feat_fed.evaluate.clips import ClipSource, FileClips
from feat_fed.evaluate.metrics import chosen_metrics
from feat_fed.evaluate.networks import FeatureNetwork, load_network
from feat_fed.evaluate.protocol import (
    NETWORKS_OF,
    MetricConfig,
    NetworkName,
    Protocol,
    load_protocol,
)
from feat_fed.evaluator.drawing import Progress as Drawn
from feat_fed.evaluator.evaluation import Progress, clips_wanted, evaluate
from feat_fed.evaluator.real import unseen
from feat_fed.evaluator.subject import Drawing, Subject, of_round
from feat_fed.measured import Evaluation
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.run_store import RunStore
from feat_fed.train.device import resolve_device

_MOST_SAMPLES = 16

Networks = dict[NetworkName, FeatureNetwork]
Samples = Callable[[NDArray[np.uint8]], None]
"""Given the first clips (N, T, H, W, 3) that were drawn, before they are measured."""


@dataclass(frozen=True)
class Bench:
    """Measures any round of a run on the same terms.

    Parameters
    ----------
    scratch
        Folder for what is needed while a round is measured.
    num_samples
        Clips of each round that are shown.
    codec_weights
        Of a learned codec; None: at the study's ``codec.weights``.
    """

    config: EvaluationConfig
    protocol: Protocol
    networks: Networks
    real: FileClips
    sampler: SamplerConfig
    device: torch.device
    folder: EvaluationFolder
    scratch: Path
    num_samples: int
    codec_weights: Path | None = None

    @classmethod
    def open(
        cls,
        store: RunStore,
        config: EvaluationConfig,
        *,
        scratch: Path,
        codec_weights: Path | None = None,
    ) -> Bench:
        """Open and check everything that the configuration names.

        Raises
        ------
        ConfigError, DataError, CheckpointError
            As by :func:`open_parts`.
        """
        protocol, networks, real = open_parts(config)
        device = resolve_device(ComputeConfig(device=config.device))
        count = {"num_clips": clips_wanted(protocol, config.num_clips)}
        sampler = validate(
            SamplerConfig, store.study.sampler.model_dump() | count, "evaluation.num_clips"
        )
        return cls(
            config=config,
            protocol=protocol,
            networks={name: each.to(device) for name, each in networks.items()},
            real=real,
            sampler=sampler,
            device=device,
            folder=EvaluationFolder.of_run(store.root),
            scratch=scratch,
            num_samples=min(store.study.sampler.num_clips, _MOST_SAMPLES),
            codec_weights=codec_weights,
        )

    def unseen(self, store: RunStore) -> FileClips:
        """Return the real videos; sites of a simulation tell what they train on once they do.

        Raises
        ------
        DataError
            If one was trained on.
        """
        return unseen(
            self.real,
            run=store,
            trained_on=self.config.trained_on,
            even_trained_on=self.config.even_trained_on,
        )

    def subject(self, store: RunStore, number: int) -> Subject:
        """Return a round's clips, to be drawn with the seeds that all rounds have.

        Raises
        ------
        CheckpointError
            If the round's weights are damaged.
        ConfigError
            If the model's clips do not fit the protocol, or its codec's weights are absent.
        """
        drawing = Drawing(self.sampler, self.device, self.config.batch_clips, self.scratch)
        return of_round(
            store, self.protocol, drawing, round_number=number, codec_weights=self.codec_weights
        )

    def measure(
        self,
        subject: Subject,
        real: FileClips,
        *,
        on_samples: Samples,
        on_progress: Progress = lambda what, done, total: None,
    ) -> Evaluation:
        """Draw the clips and measure them.

        Raises
        ------
        DataError
            If the clips cannot be measured.
        StorageError
            If there is no room.
        """
        return evaluate(
            _shown(subject, on_samples, self.num_samples),
            real,
            self.protocol,
            self.networks,
            cache=self.folder.features,
            batch_clips=self.config.batch_clips,
            device=self.device,
            on_progress=on_progress,
        )

    def would_give(self, known: Evaluation) -> bool:
        """Whether a record is of a round, on the terms on which this measures, and of all of it."""
        names = {config.metric for config, _ in self._used}
        there = {each.metric for each in known.metrics}
        return known.source == "round" and known.terms == self._terms and names <= there

    @cached_property
    def _used(self) -> list[tuple[MetricConfig, NetworkName | None]]:
        return chosen_metrics(self.protocol, self.networks, None)

    @cached_property
    def _terms(self) -> str:
        sampler = self.sampler.model_dump(mode="json", exclude={"seed"})
        return Evaluation(
            at="1970-01-01T00:00:00+00:00",
            seconds=0,
            source="round",
            weights="ema",
            benchmark=self.real.name,
            benchmark_digest=self.real.digest,
            protocol=self.protocol.name,
            protocol_digest=self.protocol.digest(),
            networks={
                name: self.networks[name].sha256 for _, name in self._used if name is not None
            },
            sampler=sampler,
            seed=self.sampler.seed,
            metrics=(),
        ).terms


def open_parts(config: EvaluationConfig) -> tuple[Protocol, Networks, FileClips]:
    """Open and check the protocol, the networks and the real videos that are named.

    Raises
    ------
    ConfigError
        When a file is missing, or is another; when ``best_by`` cannot be had.
    DataError
        When the benchmark is not what it says.
    CheckpointError
        When a network's file is damaged.
    """
    if config.folder is None:
        raise ConfigError(
            f"evaluation.folder is missing; say where the videos of {config.benchmark} are"
        )
    protocol = load_protocol(config.protocol)
    networks = _networks(config.networks)
    chosen = [metric.metric for metric, _ in chosen_metrics(protocol, networks, None)]
    scores = [name for name in chosen if NETWORKS_OF[name]]
    if config.best_by is not None and config.best_by not in scores:
        raise ConfigError(
            f"evaluation.best_by is {config.best_by}, which protocol {protocol.name} does not "
            f"give with these networks, or which knows no better; choose of: "
            f"{', '.join(scores) or 'none, leave it out'}"
        )
    real = open_benchmark(
        load_benchmark(config.benchmark), config.folder, split=config.split, partial=config.partial
    )
    return protocol, networks, real


def _networks(files: dict[str, NetworkFileConfig]) -> Networks:
    known: tuple[NetworkName, ...] = get_args(NetworkName)
    found: Networks = {"random": load_network("random")}
    if wrong := sorted(files.keys() - set(known) | files.keys() & {"random"}):
        raise ConfigError(
            f"evaluation.networks names {wrong[0]!r}; networks that are read from a file are: "
            f"{', '.join(each for each in known if each != 'random')}"
        )
    for name in known:
        if name in files:
            found[name] = load_network(name, files[name].path, files[name].sha256)
    return found


def _shown(subject: Subject, on_samples: Samples, count: int) -> Subject:
    """Let the first of the clips be seen as soon as they are drawn."""

    def make(progress: Drawn) -> ClipSource:
        clips = subject.make(progress)
        first = range(min(count, len(clips)))
        on_samples(np.stack([clips.read(each, 0, clips.num_frames(each)) for each in first]))
        return clips

    return replace(subject, make=make)
