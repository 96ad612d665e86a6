"""From a run's weights to clips that can be looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.codec import build_codec
from feat_fed.config import SamplerConfig
from feat_fed.diffusion import sample_latents
from feat_fed.errors import RunError
from feat_fed.model import FEAT, read_weights
from feat_fed.report.run_store import RunStore

DISPLAY_FPS = 10.0
"""Generated clips carry no rate of their own; this one shows their motion well."""

_BATCH_CLIPS = 8


def generate_clips(
    store: RunStore,
    sampler: SamplerConfig | None = None,
    *,
    round_number: int | None = None,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Sample clips from the averaged (EMA) weights of a round.

    Parameters
    ----------
    sampler
        How many and by which sampler; the study's if None. Clip i has seed ``sampler.seed + i``.
    round_number
        The last one if None; 0 is the untrained model.

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
    """
    study, sampler = store.study, sampler or store.study.sampler
    number = store.latest_round() if round_number is None else round_number
    if number is None or not store.ema(number).is_file():
        raise RunError(f"{store.root} has no weights of round {number if number else 0} yet")
    model = FEAT(study.model)
    model.load_state_dict(read_weights(store.ema(number), kind="ema", model=study.model).tensors)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    codec = build_codec(study.codec)
    shape = codec.latent_shape(study.clips.frames, study.clips.size_px, study.clips.size_px)
    z_NFCHW = sample_latents(
        model,
        shape_FCHW=shape,
        sampler=sampler,
        diffusion=study.diffusion,
        seeds=range(sampler.seed, sampler.seed + sampler.num_clips),
        device=device,
        batch_size=_BATCH_CLIPS,
        progress=progress,
    )
    video_NTCHW = codec.decode(z_NFCHW.cpu().float())
    bytes_NTCHW = ((video_NTCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return bytes_NTCHW.permute(0, 1, 3, 4, 2).contiguous().numpy()
