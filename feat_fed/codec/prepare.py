"""Clips into latents, once.

This is the one place where codecs and files meet: :mod:`feat_fed.data` knows no codec, and the
codecs, the store and the windows beside this module know no file format.

Legend: F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feat_fed.codec.base import VideoCodec
from feat_fed.codec.store import LatentStore, StoredLatent
from feat_fed.config import ClipConfig
from feat_fed.data.frames import SQUARE_VERSION, square_video
from feat_fed.data.inventory.scan import TOO_SHORT, ClipEntry, Exclusion, Progress, window_frames
from feat_fed.data.reading.reader import READER_VERSION, iter_frames
from feat_fed.errors import ClipError

_CHUNK_FRAMES = 32  # decoded frames in memory at a time, however long the file


@dataclass(frozen=True)
class LatentClip:
    """One clip, encoded; ``num_frames`` is what the decoder really gave."""

    latent: StoredLatent
    patient: str

    @property
    def num_frames(self) -> int:
        """Frames of the latent, one for each of the source."""
        return self.latent.num_frames


@dataclass(frozen=True)
class LatentClips:
    """What :func:`prepare` made, in the order of its entries, and what it could not."""

    clips: tuple[LatentClip, ...]
    excluded: tuple[Exclusion, ...]


def prepare(
    entries: Iterable[ClipEntry],
    *,
    store: Path,
    codec: VideoCodec,
    clips: ClipConfig,
    progress: Progress | None = None,
) -> LatentClips:
    """Encode what the store does not hold yet, whole files at their own frame rate.

    A clip that turns out damaged or too short on the way costs an exclusion.

    Parameters
    ----------
    store
        Folder of the latents; see :mod:`feat_fed.codec.store`.

    Raises
    ------
    DataError
        When the store cannot be written.
    """
    latents = LatentStore(store)
    entries = tuple(entries)
    done: list[LatentClip] = []
    excluded: list[Exclusion] = []
    for count, entry in enumerate(entries, start=1):
        recipe = _recipe(entry, codec, clips)
        try:
            latent = latents.find(recipe)
            if latent is None:
                latent = latents.put(recipe, *_encode_file(entry.source[0], codec, clips.size_px))
            if latent.num_frames < window_frames(clips):
                raise ClipError(TOO_SHORT)
            done.append(LatentClip(latent, entry.patient))
        except ClipError as error:
            excluded.append(Exclusion(entry.source[0], error.reason))
        if progress:
            progress(count, len(entries))
    return LatentClips(tuple(done), tuple(excluded))


def _recipe(entry: ClipEntry, codec: VideoCodec, clips: ClipConfig) -> tuple[str, ...]:
    return (
        f"file {entry.sha256}",
        f"reader {READER_VERSION}",
        f"square {SQUARE_VERSION} {clips.size_px} px",
        f"codec {codec.fingerprint}",
    )


@torch.no_grad()
def _encode_file(path: Path, codec: VideoCodec, size_px: int) -> tuple[Tensor, Tensor | None]:
    """Return mean and log-variance, ``FChw``."""
    means, logvars = [], []
    for frames_FHWC in _chunks(path):
        latent = codec.encode(square_video(frames_FHWC, size_px=size_px)[None])
        means.append(latent.mean[0])
        if latent.logvar is not None:
            logvars.append(latent.logvar[0])
    if not means:
        raise ClipError(TOO_SHORT)
    return torch.cat(means), torch.cat(logvars) if logvars else None


def _chunks(path: Path) -> Iterator[np.ndarray]:
    frames = iter_frames(path)
    while chunk := list(islice(frames, _CHUNK_FRAMES)):
        yield np.stack(chunk)
