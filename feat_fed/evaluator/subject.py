"""What is measured: clips drawn from a round or a checkpoint, or videos of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from feat_fed.config import SamplerConfig
from feat_fed.diffusion.schedulers import SCHEDULERS
from feat_fed.errors import ConfigError
from feat_fed.evaluate.benchmarks import load_benchmark, open_benchmark
from feat_fed.evaluate.clips import ArrayClips, ClipSource
from feat_fed.evaluate.protocol import Protocol
from feat_fed.evaluator.drawing import Progress, draw_clips
from feat_fed.generate import RunWeights, run_pipeline
from feat_fed.model.pretrained import MODEL_FOLDER, WEIGHTS_FILE
from feat_fed.pipeline import FEATPipeline
from feat_fed.pipeline_folder import ClipSize
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest


@dataclass(frozen=True)
class Subject:
    """Whose clips are measured.

    Parameters
    ----------
    make
        Gives the clips, which may take hours.
    like
        Clips of the same number, length and size, by which all can be checked before.
    weights_sha256
        That the weights' file holds of its content.
    sampler, seed
        How they are drawn; nothing of videos of others.
    notes
        What somebody must know who reads the numbers.
    """

    source: Literal["round", "checkpoint", "folder"]
    make: Callable[[Progress], ClipSource] = field(repr=False)
    like: ClipSource = field(repr=False)
    round: int | None = None
    weights: RunWeights | None = None
    weights_sha256: str = ""
    sampler: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """How clips are drawn.

    Parameters
    ----------
    sampler
        Also how many, and from which seed on.
    device
        Where the pipeline is moved; it stays where it is if None.
    scratch
        As in :func:`~feat_fed.evaluator.drawing.draw_clips`.
    """

    sampler: SamplerConfig
    device: torch.device | None = None
    batch_clips: int = 8
    scratch: Path | None = None


def of_round(
    store: RunStore,
    protocol: Protocol,
    drawing: Drawing,
    *,
    round_number: int | None = None,
    weights: RunWeights = "ema",
    codec_weights: Path | None = None,
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
    number = (store.latest_round() or 0) if round_number is None else round_number
    pipeline = run_pipeline(
        store, drawing.sampler, round_number=number, weights=weights, codec_weights=codec_weights
    )
    path = store.weights_file(weights, number)
    return replace(
        of_pipeline(f"round {number}", pipeline, protocol, drawing),
        source="round",
        round=number,
        weights=weights,
        weights_sha256=read_digest(path),
    )


def of_checkpoint(folder: Path, protocol: Protocol, drawing: Drawing) -> Subject:
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
    return replace(
        of_pipeline("the checkpoint", pipeline, protocol, drawing),
        weights_sha256=read_digest(folder / MODEL_FOLDER / WEIGHTS_FILE),
    )


def of_pipeline(name: str, pipeline: FEATPipeline, protocol: Protocol, drawing: Drawing) -> Subject:
    """Draw clips from a pipeline, whose own scheduler counts.

    Raises
    ------
    ConfigError
        If its clips are too short for the protocol.
    """

    def make(progress: Progress) -> ClipSource:
        if drawing.device is not None:
            pipeline.to(drawing.device)
        clips_NTHWC = draw_clips(
            pipeline,
            drawing.sampler,
            batch_clips=drawing.batch_clips,
            scratch=drawing.scratch,
            progress=progress,
        )
        return ArrayClips(name, clips_NTHWC)

    size, kinds = pipeline.size, {name: kind for kind, name in SCHEDULERS.items()}
    shape = (drawing.sampler.num_clips, size.num_frames, size.height, size.width, 3)
    told = drawing.sampler.model_dump(mode="json", exclude={"seed"})
    return Subject(
        source="checkpoint",
        make=make,
        like=ArrayClips(name, np.broadcast_to(np.uint8(0), shape)),
        sampler=told | {"kind": kinds[type(pipeline.scheduler).__name__]},
        seed=drawing.sampler.seed,
        notes=_fitting(size, protocol),
    )


def of_videos(folder: Path) -> Subject:
    """Take the videos of a folder, whoever made them.

    Raises
    ------
    DataError
        If it holds none.
    """
    clips = open_benchmark(load_benchmark("folder"), folder).renamed(str(folder))
    return Subject(source="folder", make=lambda progress: clips, like=clips)


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
            f"the model makes {size.width} x {size.height} px and protocol {protocol.name} "
            f"measures at {size_px} px: its clips are enlarged, and lack what real ones have",
        )
    return ()
