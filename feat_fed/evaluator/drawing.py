"""From weights to a set of clips that is measured, batch by batch, with seeds that stay.

Legend: N clips, T frames, H height, W width, 3 colour channels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feat_fed.config import SamplerConfig
from feat_fed.errors import StorageError
from feat_fed.generate import sample_clips
from feat_fed.pipeline import FEATPipeline

Progress = Callable[[int, int], None]
"""Called with how many clips there are and how many there will be."""


def draw_clips(
    pipeline: FEATPipeline,
    sampler: SamplerConfig,
    *,
    batch_clips: int,
    scratch: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.uint8]:
    """Draw ``sampler.num_clips`` clips; clip i has seed ``sampler.seed + i``.

    A batch at a time is in memory; the clips are in a file without a name, which goes with the
    process, however that ends.

    Parameters
    ----------
    scratch
        Folder of that file; the machine's own for such files if None.

    Returns
    -------
    numpy.ndarray
        (N, T, H, W, 3), mapped from the file.

    Raises
    ------
    StorageError
        When there is no room for the clips.
    """
    pipeline.set_progress_bar_config(disable=True)
    clips_NTHWC: NDArray[np.uint8] | None = None
    total = sampler.num_clips
    progress(0, total)
    for start in range(0, total, batch_clips):
        seeds = range(sampler.seed + start, sampler.seed + min(start + batch_clips, total))
        batch_NTHWC = sample_clips(pipeline, sampler, seeds=seeds, batch_size=batch_clips)
        if clips_NTHWC is None:
            clips_NTHWC = _mapped((total, *batch_NTHWC.shape[1:]), scratch)
        clips_NTHWC[start : start + len(batch_NTHWC)] = batch_NTHWC
        progress(start + len(batch_NTHWC), total)
    assert clips_NTHWC is not None  # a sampler draws one clip at least
    return clips_NTHWC


def _mapped(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    """Map a nameless file whose blocks are all there: writing to a full disk would kill us."""
    size_bytes = int(np.prod(shape))
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise StorageError(
            f"{size_bytes:,} bytes for {shape[0]} clips cannot be had in "
            f"{folder or tempfile.gettempdir()}: {error.strerror}; draw fewer, or free some"
        ) from error
