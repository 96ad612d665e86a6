"""What is measured: clips drawn from a round or a checkpoint, or videos of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from feat_fed.config import SamplerConfig
from feat_fed.diffusion.schedulers import SCHEDULERS
from feat_fed.errors import ConfigError
from feat_fed.evaluate.benchmarks import load_benchmark, open_benchmark
from feat_fed.evaluate.clips import ArrayClips, ClipSource
from feat_fed.evaluate.protocol import Protocol
from feat_fed.evaluator.drawing import Progress, draw_clips
from feat_fed.generate import RunWeights, run_pipeline
from feat_fed.pipeline import FEATPipeline
from feat_fed.pipeline_folder import ClipSize
from feat_fed.report.run_store import RunStore

_QUIET: Progress = lambda done, total: None  # noqa: E731


@dataclass(frozen=True)
class Subject:
    """Whose clips are measured.

    Parameters
    ----------
    make
        Gives the clips; it may take hours, so all that can be checked is checked before.
    sampler, seed
        How they are drawn; nothing of videos of others.
    notes
        What somebody must know who reads the numbers.
    """

    source: Literal["round", "checkpoint", "folder"]
    make: Callable[[Progress], ClipSource] = field(repr=False)
    round: int | None = None
    weights: RunWeights | None = None
    sampler: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    notes: tuple[str, ...] = ()


def of_round(
    store: RunStore,
    protocol: Protocol,
    sampler: SamplerConfig,
    *,
    round_number: int | None = None,
    weights: RunWeights = "ema",
    codec_weights: Path | None = None,
    device: torch.device | None = None,
    batch_clips: int = 8,
    scratch: Path | None = None,
) -> Subject:
    """Draw clips from a run's round, the last one if None.

    Raises
    ------
    RunError
        If the run has no weights of that round.
    CheckpointError
        If they are damaged.
    ConfigError
        If the model's clips are too short for the protocol, or the codec's weights are absent.
    """
    number = store.latest_round() if round_number is None else round_number
    pipeline = run_pipeline(
        store, sampler, round_number=number, weights=weights, codec_weights=codec_weights
    )
    return Subject(
        source="round",
        make=_drawn(f"round {number}", pipeline, sampler, device, batch_clips, scratch),
        round=number,
        weights=weights,
        sampler=_told(sampler),
        seed=sampler.seed,
        notes=_fitting(pipeline.size, protocol),
    )


def of_checkpoint(
    folder: Path,
    protocol: Protocol,
    sampler: SamplerConfig,
    *,
    device: torch.device | None = None,
    batch_clips: int = 8,
    scratch: Path | None = None,
) -> Subject:
    """Draw clips from a pipeline's folder, with the scheduler that it holds.

    Raises
    ------
    CheckpointError
        If the folder is absent, damaged, or of something else.
    ConfigError
        If its clips are too short for the protocol, or it has no codec to decode them.
    """
    pipeline = FEATPipeline.from_pretrained(folder)
    if pipeline.codec is None:
        raise ConfigError(
            f"{folder} makes latents and has no codec of feat-fed ({pipeline.codec_name}): decode "
            "its clips elsewhere, and measure the folder of videos"
        )
    kinds = {name: kind for kind, name in SCHEDULERS.items()}
    kind = kinds[type(pipeline.scheduler).__name__]
    return Subject(
        source="checkpoint",
        make=_drawn("the checkpoint", pipeline, sampler, device, batch_clips, scratch),
        sampler=_told(sampler) | {"kind": kind},
        seed=sampler.seed,
        notes=_fitting(pipeline.size, protocol),
    )


def of_videos(folder: Path) -> Subject:
    """Take the videos of a folder, whoever made them.

    Raises
    ------
    DataError
        If it holds none.
    """
    clips = open_benchmark(load_benchmark("folder"), folder).renamed(str(folder))
    return Subject(source="folder", make=lambda progress: clips)


def _drawn(
    name: str,
    pipeline: FEATPipeline,
    sampler: SamplerConfig,
    device: torch.device | None,
    batch_clips: int,
    scratch: Path | None,
) -> Callable[[Progress], ClipSource]:
    def make(progress: Progress) -> ClipSource:
        if device is not None:
            pipeline.to(device)
        return ArrayClips(
            name,
            draw_clips(
                pipeline, sampler, batch_clips=batch_clips, scratch=scratch, progress=progress
            ),
        )

    return make


def _told(sampler: SamplerConfig) -> dict[str, Any]:
    return sampler.model_dump(mode="json", exclude={"num_clips", "seed"})


def _fitting(size: ClipSize, protocol: Protocol) -> tuple[str, ...]:
    """Refuse clips that the protocol has no use for; say where it measures them larger."""
    span = 1 + (protocol.num_frames - 1) * protocol.stride_frames if protocol.num_frames else 0
    if size.num_frames < span:
        raise ConfigError(
            f"the model makes clips of {size.num_frames} frames and protocol {protocol.name} "
            f"measures {span}: take a protocol of shorter clips, such as plain"
        )
    size_px = protocol.frames.size_px
    if size_px and size_px > min(size.height, size.width):
        return (
            f"the model makes {size.width} x {size.height} px and protocol {protocol.name} measures "
            f"at {size_px} px: its clips are enlarged, and lack detail that real ones have",
        )
    return ()
