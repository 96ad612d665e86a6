"""Any supported source as a clip: one file, or the files of a series in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from feat_fed.data.reading import pictures, video
from feat_fed.data.reading.clip import (
    Cine,
    Clip,
    ClipInfo,
    Frame,
    Source,
    TimedFrame,
    Window,
    contained,
)
from feat_fed.errors import ClipError, MissingExtraError

READER_VERSION = 2
"""Raised with every change that gives other pixels for the same file; caches are keyed by it."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})

MAX_CLIP_BYTES = 2**32
"""What :func:`read_clip` puts into memory at once; longer sources are read in windows."""

NOT_OPENED = "file cannot be opened"

_TOO_SHORT = "fewer frames than asked for"


def read_clip(
    source: Path | Source,
    *,
    start_frame: int = 0,
    stride_frames: int = 1,
    num_frames: int | None = None,
) -> Clip:
    """Decode frames ``start_frame``, ``start_frame + stride_frames``, ... of one source.

    They are exactly those of a decode from the first frame on. Where the container allows it,
    what lies before the window is not decoded; what lies behind never is.

    Parameters
    ----------
    source
        A file of any supported kind (DICOM is known by its content), or several files of a frame
        each, in order.
    start_frame, stride_frames
        In frames of the source, counted as the decoder gives them.
    num_frames
        Frames to return; all that are left when ``None``.

    Returns
    -------
    Clip
        RGB frames, the source's frame rate, and the frames' times.

    Raises
    ------
    ClipError
        When the source cannot be decoded, is shorter than asked for, or more than
        :data:`MAX_CLIP_BYTES` are.
    ValueError
        When the window itself makes no sense.
    """
    window = Window(start_frame, stride_frames, num_frames)
    frames, times_sec = [], []
    with _opened(source) as cine:
        for frame, time_sec in _checked(cine, window):
            frames.append(frame)
            times_sec.append(time_sec)
            if len(frames) * frame.nbytes > MAX_CLIP_BYTES:
                raise ClipError("too long to be read at once")
        fps = cine.fps
    if not frames:
        raise ClipError(_TOO_SHORT if start_frame else "no frame can be decoded")
    known = [each for each in times_sec if each is not None]
    timed = len(known) == len(frames)
    return Clip(np.stack(frames), fps, np.array(known) if timed else None)


def iter_frames(
    source: Path | Source,
    *,
    start_frame: int = 0,
    stride_frames: int = 1,
    num_frames: int | None = None,
) -> Iterator[Frame]:
    """Decode one frame, (H, W, 3) uint8 RGB, after the other; the memory holds one at a time.

    The parameters are those of :func:`read_clip`.

    Raises
    ------
    ClipError
        When the source cannot be decoded, on the way or at once, or is shorter than asked for.
    ValueError
        When the window itself makes no sense.
    """
    window = Window(start_frame, stride_frames, num_frames)
    with _opened(source) as cine:
        for frame, _ in _checked(cine, window):
            yield frame


def probe(source: Path | Source) -> ClipInfo:
    """Return what the header tells, and make sure that the first frame can be decoded.

    Raises
    ------
    ClipError
        When it cannot.
    """
    with _opened(source) as cine:
        return cine.info()


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its prefix (PS3.10 7.1), or else by its name."""
    with contained(NOT_OPENED), path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES


def _checked(cine: Cine, window: Window) -> Iterator[TimedFrame]:
    """Make sure that all frames are of one size and as many as asked for."""
    shape, count = None, 0
    for frame, time_sec in cine.frames(window):
        if frame.shape != (shape or frame.shape):
            raise ClipError("frame size changes within the clip")
        shape, count = frame.shape, count + 1
        yield frame, time_sec
    if window.num_frames is not None and count < window.num_frames:
        raise ClipError(_TOO_SHORT)


def _opened(source: Path | Source) -> AbstractContextManager[Cine]:
    files = (source,) if isinstance(source, Path) else tuple(source)
    if not files:
        raise ValueError("a source has one file at least")
    if not is_dicom(files[0]):
        if len(files) > 1 or files[0].suffix.lower() in pictures.PICTURE_SUFFIXES:
            return pictures.opened(files)
        return video.opened(files[0])
    try:
        from feat_fed.data.reading import dicom, series
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading DICOM needs {error.name}; install it with: pip install 'feat-fed[client]'"
        ) from None
    return dicom.opened(files[0]) if len(files) == 1 else series.opened(files)
