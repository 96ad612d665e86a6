"""Clips as small windows that stay in memory.

Legend: N clips, V windows of a clip, T frames of a window, S side in pixels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from feat_fed.data.frames import square_video
from feat_fed.downstream.labelled import named
from feat_fed.downstream.settings import WindowSettings
from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.clips import ClipSource

UInt8Array = NDArray[np.uint8]


def window_places(num_frames: int, settings: WindowSettings) -> tuple[list[int], int]:
    """Return where the windows of a clip begin, evenly over its length, and their stride.

    The stride is the one that is set, or the largest that a shorter clip has room for.

    Raises
    ------
    ValueError
        When the clip has fewer frames than a window.
    """
    if num_frames < settings.num_frames:
        raise ValueError(f"{num_frames} frames, and a window has {settings.num_frames}")
    gaps = max(settings.num_frames - 1, 1)
    stride = min(settings.stride_frames, max(1, (num_frames - 1) // gaps))
    room = num_frames - 1 - (settings.num_frames - 1) * stride
    if settings.views == 1:
        return [room // 2], stride
    return [round(room * view / (settings.views - 1)) for view in range(settings.views)], stride


def windows_bytes(num_clips: int, settings: WindowSettings) -> int:
    """Return the memory that the windows of as many clips take."""
    frame_bytes = 3 * settings.size_px**2
    return num_clips * settings.views * settings.num_frames * frame_bytes


def check_memory(num_clips: int, settings: WindowSettings) -> None:
    """Refuse more clips than the memory is for, before one is decoded.

    Raises
    ------
    ConfigError
        When their windows take more than ``settings.memory_gb``.
    """
    needed_gb = windows_bytes(num_clips, settings) / 1e9
    if needed_gb > settings.memory_gb:
        raise ConfigError(
            f"{num_clips} clips of {settings.views} windows take {needed_gb:.2g} GB, and "
            f"windows.memory_gb is {settings.memory_gb:g}; raise it in --config, or lower "
            "windows.views, num_frames or size_px"
        )


def decode_windows(
    clips: ClipSource,
    settings: WindowSettings,
    *,
    decoded: Callable[[], None] = lambda: None,
) -> UInt8Array:
    """Decode, square and resize the windows of all clips; one window is decoded at a time.

    Parameters
    ----------
    decoded
        Called after each clip.

    Returns
    -------
    UInt8Array
        (N, V, T, S, S, 3)

    Raises
    ------
    DataError
        When clips cannot be read or are too short, naming them.
    """
    side = settings.size_px
    windows = np.empty(
        (len(clips), settings.views, settings.num_frames, side, side, 3), dtype=np.uint8
    )
    failures = []
    for index in range(len(clips)):
        try:
            windows[index] = _clip_windows(clips, index, settings)
        except DataError as error:
            failures.append(str(error))
        except ValueError as short:
            failures.append(
                f"{clips.name}: {clips.label(index)}: {short}; replace it, or lower "
                "windows.num_frames in --config"
            )
        decoded()
    if failures:
        raise DataError(
            f"{len(failures)} of {len(clips)} clips cannot be used. {named(failures, ' ')}"
        )
    return windows


def _clip_windows(clips: ClipSource, index: int, settings: WindowSettings) -> UInt8Array:
    starts, stride = window_places(clips.num_frames(index), settings)
    views = []
    for start in starts:
        frames_THWC = clips.read(index, start, settings.num_frames, stride)
        video_TCSS = square_video(frames_THWC, size_px=settings.size_px, fit=settings.fit)
        pixels = ((video_TCSS + 1) * 127.5).round().clamp(0, 255)
        views.append(pixels.permute(0, 2, 3, 1).numpy().astype(np.uint8))
    return np.stack(views)
