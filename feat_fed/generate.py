"""From a run's weights to clips that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.config import SamplerConfig
from feat_fed.diffusion import make_scheduler
from feat_fed.errors import RunError
from feat_fed.model import FEAT, read_weights
from feat_fed.pipeline import FEATPipeline
from feat_fed.pipeline_folder import ClipSize
from feat_fed.report.run_store import RunStore

RunWeights = Literal["ema", "global"]

DISPLAY_FPS = 10.0
"""Generated clips carry no rate of their own; this one shows their motion well."""


def run_pipeline(
    store: RunStore,
    sampler: SamplerConfig | None = None,
    *,
    round_number: int | None = None,
    weights: RunWeights = "ema",
    codec_weights: Path | None = None,
) -> FEATPipeline:
    """Return the pipeline of a round.

    Parameters
    ----------
    sampler
        Its kind is the pipeline's scheduler; the study's if None.
    round_number
        The last one if None; 0 is the untrained model.
    weights
        The average over rounds (EMA), or the round's own.
    codec_weights
        Of a learned codec, where they are not at the study's ``codec.weights`` on this machine.

    Raises
    ------
    ConfigError
        If the codec's weights are absent, or not the study's.
    RunError
        If the run has no weights of that round.
    CheckpointError
        If they are damaged.
    """
    study = store.study
    number = store.latest_round() if round_number is None else round_number
    path = store.weights_file(weights, number or 0)
    if number is None or not path.is_file():
        raise RunError(f"{store.root} has no weights of round {number or 0} yet")
    model = FEAT(study.model)
    model.load_state_dict(read_weights(path, kind=weights, model=study.model).tensors)
    size_px = study.clips.size_px
    return FEATPipeline(
        model.eval(),
        make_scheduler(sampler or study.sampler, study.diffusion),
        study.codec,
        size=ClipSize(num_frames=study.clips.frames, height=size_px, width=size_px),
        codec_weights=codec_weights,
    )


def generate_clips(
    store: RunStore,
    sampler: SamplerConfig | None = None,
    *,
    round_number: int | None = None,
    codec_weights: Path | None = None,
    device: torch.device | None = None,
    show_progress: bool = False,
) -> NDArray[np.uint8]:
    """Sample clips from the averaged (EMA) weights of a round.

    Parameters
    ----------
    sampler
        How many and by which sampler; the study's if None. Clip i has seed ``sampler.seed + i``.
    round_number
        The last one if None; 0 is the untrained model.
    codec_weights
        As in :func:`run_pipeline`.

    Returns
    -------
    numpy.ndarray
        Clips (N, T, H, W, 3).

    Raises
    ------
    RunError
        If the run has no weights of that round.
    CheckpointError
        If they are damaged.
    ConfigError
        If the codec's weights are absent, or not the study's.
    """
    sampler = sampler or store.study.sampler
    pipeline = run_pipeline(store, sampler, round_number=round_number, codec_weights=codec_weights)
    pipeline.to(device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pipeline.set_progress_bar_config(disable=None if show_progress else True)
    seeds = range(sampler.seed, sampler.seed + sampler.num_clips)
    return sample_clips(pipeline, sampler, seeds=seeds)


def sample_clips(
    pipeline: FEATPipeline, sampler: SamplerConfig, *, seeds: Sequence[int], batch_size: int = 8
) -> NDArray[np.uint8]:
    """Draw a clip for each seed; ``sampler`` says how, not how many.

    Returns
    -------
    numpy.ndarray
        Clips (N, T, H, W, 3).

    Raises
    ------
    ConfigError
        If the sampler does not fit the model, or the pipeline has no codec.
    """
    frames_NTHWC = pipeline(
        seeds=seeds,
        num_inference_steps=sampler.steps,
        batch_size=batch_size,
        **sampler.model_dump(exclude={"kind", "steps", "num_clips", "seed"}),
    ).frames
    return np.round(np.asarray(frames_NTHWC) * 255).astype(np.uint8)
