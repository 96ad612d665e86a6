"""From videos to features, in batches.

Legend: N clips or frames, T frames of a clip, H height, W width, D dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feat_fed.errors import DataError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.networks import FeatureNetwork, InceptionNetwork
from feat_fed.evaluate.plan import Plan
from feat_fed.evaluate.prepare import Frames, prepare_frames
from feat_fed.evaluate.protocol import Protocol

_READ_FRAMES = 64
"""Frames of a long video that are in memory at once."""

Progress = Callable[[str, int, int], None]
"""Told what is computed, how many clips or videos are done, and of how many."""


@dataclass(frozen=True)
class Running:
    """How features are computed, which changes nothing of them but their rounding.

    Parameters
    ----------
    batch_clips
        Clips that are in memory and go through a network at once; of a network for frames as many
        frames as these clips have.
    """

    batch_clips: int = 8
    device: torch.device | str = "cpu"
    on_progress: Progress | None = None


@dataclass(frozen=True)
class Extracted:
    """What a network made of one side.

    Parameters
    ----------
    features_ND
        float32.
    videos_N
        Which video each row is of.
    logits_NC
        Of an image network that was asked for them.
    """

    features_ND: NDArray[np.float32]
    videos_N: NDArray[np.intp]
    logits_NC: NDArray[np.float32] | None = None


def extract(
    source: ClipSource,
    plan: Plan,
    network: FeatureNetwork,
    protocol: Protocol,
    running: Running,
    *,
    max_images: int | None = None,
    logits: bool = False,
) -> Extracted:
    """Compute the features of the planned clips, or of frames for a network that takes these.

    Parameters
    ----------
    max_images
        Frames at most, in order.
    logits
        Also those of an image network.

    Raises
    ------
    DataError
        When a video cannot be read or a feature is not finite; network and video are named.
    """
    features, logit_parts = [], []
    videos: list[int] = []
    as_frames = network.takes == "frames"
    whole = as_frames and protocol.images == "videos"
    pieces = _whole_videos(source, plan) if whole else _clips(source, plan)
    size = running.batch_clips * (plan.num_frames if as_frames else 1)
    for batch in _batches(pieces, protocol, plan, size, as_frames=as_frames):
        left = max_images - len(videos) if as_frames and max_images is not None else size
        if left <= 0:
            break
        pixels = torch.from_numpy(batch.pixels[:left]).to(running.device)
        owners = batch.videos[:left]
        found = network.features(pixels, protocol.fit)
        features.append(_finite(found, source, network, owners))
        if logits and isinstance(network, InceptionNetwork):
            logit_parts.append(_finite(network.logits(pixels), source, network, owners))
        videos += owners
        if running.on_progress is not None:
            running.on_progress(f"{source.name}: {network.name}", batch.done, batch.total)
    return Extracted(
        np.concatenate(features),
        np.array(videos, np.intp),
        np.concatenate(logit_parts) if logit_parts else None,
    )


def prepared_clips(source: ClipSource, plan: Plan, protocol: Protocol) -> Iterator[Frames]:
    """Yield each planned clip, (T, H, W, 3), as networks see it."""
    for piece in _clips(source, plan):
        yield prepare_frames(piece.frames, protocol.frames, plan.size_px)


@dataclass(frozen=True)
class _Piece:
    """Stored frames of one video, and how much of the work is done with them."""

    frames: Frames
    video: int
    done: int
    total: int


@dataclass(frozen=True)
class _Batch:
    pixels: Frames
    videos: list[int]
    done: int
    total: int


def _clips(source: ClipSource, plan: Plan) -> Iterator[_Piece]:
    for number, clip in enumerate(plan.clips, start=1):
        frames = source.read(clip.video, clip.start, plan.num_frames, plan.stride_frames)
        yield _Piece(frames, clip.video, number, len(plan.clips))


def _whole_videos(source: ClipSource, plan: Plan) -> Iterator[_Piece]:
    """All frames of all videos, in order: folders of images know no clips and no least length."""
    for video in range(len(source)):
        count = source.num_frames(video)
        for start in range(0, count, _READ_FRAMES):
            frames = source.read(video, start, min(_READ_FRAMES, count - start))
            yield _Piece(frames, video, video + 1, len(source))


def _batches(
    pieces: Iterator[_Piece], protocol: Protocol, plan: Plan, size: int, *, as_frames: bool
) -> Iterator[_Batch]:
    """Prepare frames and stack them: clips, or frames of any clips one after the other."""
    waiting: list[tuple[Frames, int]] = []
    for piece in pieces:
        frames = prepare_frames(piece.frames, protocol.frames, plan.size_px)
        rows = list(frames) if as_frames else [frames]
        waiting += [(row, piece.video) for row in rows]
        while len(waiting) >= size:
            yield _stacked(waiting[:size], piece)
            waiting = waiting[size:]
    if waiting:
        yield _stacked(waiting, piece)


def _stacked(rows: list[tuple[Frames, int]], piece: _Piece) -> _Batch:
    pixels = np.stack([row for row, _ in rows])
    return _Batch(pixels, [video for _, video in rows], piece.done, piece.total)


def _finite(
    found: Tensor, source: ClipSource, network: FeatureNetwork, videos: list[int]
) -> NDArray[np.float32]:
    array: NDArray[np.float32] = found.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise DataError(
            f"{source.name}: the {network.name} features of {source.label(videos[bad[0]])} are not "
            "finite (NaN or Inf): look at this video, and whether the network is what it should be"
        )
    return array
