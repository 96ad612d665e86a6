"""Which clips of which videos are measured: a protocol's words and a set of videos made one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feat_fed.errors import DataError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.prepare import Size
from feat_fed.evaluate.protocol import Protocol, SideConfig

MIN_VIDEOS = 4
"""Fewer than these say nothing of a distribution."""


@dataclass(frozen=True)
class Planned:
    """A clip: frames ``start``, ``start + stride_frames``, ... of a video."""

    video: int
    start: int


@dataclass(frozen=True)
class Plan:
    """What of one set of videos is measured, and how it is prepared.

    Parameters
    ----------
    clips
        In the order in which features are computed.
    num_frames, stride_frames
        Of each clip.
    size_px
        Of a prepared frame: height, width.
    """

    clips: tuple[Planned, ...]
    num_frames: int
    stride_frames: int
    size_px: Size


def plan_both(real: ClipSource, generated: ClipSource, protocol: Protocol) -> tuple[Plan, Plan]:
    """Choose the clips of both sides.

    Where the protocol leaves size or length open, the generated videos decide: the real ones are
    brought to theirs.

    Raises
    ------
    DataError
        When there are too few videos, or they are too short, or of several sizes where one is
        needed; the message names one.
    """
    for source in (real, generated):
        _need_enough(source, len(source))
    num_frames = protocol.num_frames or _shortest(generated, protocol.stride_frames)
    size_px = protocol.frames.size_px
    size = (size_px, size_px) if size_px else _only_size(generated)
    plans = []
    for stream, (source, side) in enumerate(
        ((real, protocol.real), (generated, protocol.generated))
    ):
        random = np.random.Generator(np.random.PCG64([protocol.seed, stream]))
        clips = _clips(source, side, num_frames, protocol.stride_frames, random)
        plans.append(Plan(clips, num_frames, protocol.stride_frames, size))
    return plans[0], plans[1]


def _clips(
    source: ClipSource,
    side: SideConfig,
    num_frames: int,
    stride_frames: int,
    random: np.random.Generator,
) -> tuple[Planned, ...]:
    span = (num_frames - 1) * stride_frames + 1
    lengths = {index: source.num_frames(index) for index in range(len(source))}
    short = [index for index, length in lengths.items() if length < span]
    if short and side.short == "refuse":
        raise DataError(
            f"{source.name}: {source.label(short[0])} has {lengths[short[0]]} frames and a clip "
            f"takes {span} ({len(short)} of {len(source)} videos are too short); give longer ones "
            "or a protocol of shorter clips"
        )
    videos = [index for index in lengths if lengths[index] >= span]
    _need_enough(source, len(videos), f" of {span} frames or more")
    wanted = len(videos) if side.num_clips is None else side.num_clips
    chosen: list[int] = []
    while len(chosen) < wanted and (not chosen or side.repeat):
        order = random.permutation(videos).tolist() if side.choose == "random" else videos
        chosen += order[: wanted - len(chosen)]
    return tuple(
        Planned(
            video,
            int(random.integers(lengths[video] - span + 1)) if side.offset == "random" else 0,
        )
        for video in chosen
    )


def _need_enough(source: ClipSource, count: int, which: str = "") -> None:
    if count < MIN_VIDEOS:
        raise DataError(
            f"{source.name} has {count} videos{which}: a distribution cannot be told from fewer "
            f"than {MIN_VIDEOS}, and a number that is to be believed takes hundreds"
        )


def _shortest(source: ClipSource, stride_frames: int) -> int:
    lengths = [source.num_frames(index) for index in range(len(source))]
    frames = (min(lengths) - 1) // stride_frames + 1
    if frames < 2:
        label = source.label(int(np.argmin(lengths)))
        raise DataError(f"{source.name}: {label} has {min(lengths)} frames; a clip takes 2 or more")
    return frames


def _only_size(source: ClipSource) -> Size:
    """Return the size of all videos' first frames."""
    size: Size | None = None
    for index in range(len(source)):
        height, width = source.read(index, 0, 1).shape[1:3]
        if size is not None and (height, width) != size:
            raise DataError(
                f"{source.name}: {source.label(0)} is {size[0]} x {size[1]} px (height, width) and "
                f"{source.label(index)} is {height} x {width}; the protocol measures generated "
                "videos as they are, so they must share one size: resize them, or take a protocol "
                "with frames.size_px"
            )
        size = (height, width)
    if size is None or min(size) < 16:
        raise DataError(f"{source.name}: frames of {size} px; networks need 16 px at least")
    return size
