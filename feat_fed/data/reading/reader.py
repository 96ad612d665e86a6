"""Any supported file as a clip: multi-frame DICOM, video inside DICOM, and video files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from feat_fed.data.reading import video
from feat_fed.data.reading.clip import Clip, ClipInfo, Frame, contained
from feat_fed.errors import ClipError, MissingExtraError

READER_VERSION = 1
"""Raised with every change that gives other pixels for the same file; caches are keyed by it."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})


def read_clip(
    path: Path,
    *,
    start_frame: int = 0,
    stride_frames: int = 1,
    num_frames: int | None = None,
) -> Clip:
    """Decode frames ``start_frame``, ``start_frame + stride_frames``, ... of one file.

    Decoding starts at the file's first frame, for not every container can seek exactly, and
    stops at the last one that is wanted.

    Parameters
    ----------
    path
        A file of any supported kind; a DICOM file is known by its content.
    start_frame, stride_frames
        In frames of the source, counted as the decoder gives them.
    num_frames
        Frames to return; all that are left when ``None``.

    Returns
    -------
    Clip
        RGB frames and the source's frame rate.

    Raises
    ------
    ClipError
        When the file cannot be decoded or is shorter than asked for.
    ValueError
        When the window itself makes no sense.
    """
    if start_frame < 0 or stride_frames < 1 or (num_frames is not None and num_frames < 1):
        raise ValueError(
            f"start_frame {start_frame}, stride_frames {stride_frames}, num_frames {num_frames}: "
            "the window must start at 0 or later and hold at least one frame"
        )
    fps = probe(path).fps
    stop = None if num_frames is None else start_frame + (num_frames - 1) * stride_frames + 1
    frames = list(islice(iter_frames(path), start_frame, stop, stride_frames))
    if not frames or (num_frames is not None and len(frames) < num_frames):
        raise ClipError("fewer frames than asked for")
    return Clip(np.stack(frames), fps)


def iter_frames(path: Path) -> Iterator[Frame]:
    """Decode one frame, (H, W, 3) uint8 RGB, after the other; the memory holds one at a time.

    Raises
    ------
    ClipError
        When the file cannot be decoded, on the way or at once.
    """
    shape = None
    for frame in _backend(path).iter_frames(path):
        if frame.shape != (shape or frame.shape):
            raise ClipError("frame size changes within the clip")
        shape = frame.shape
        yield frame


def probe(path: Path) -> ClipInfo:
    """Return what the header tells, and make sure that the first frame can be decoded.

    Raises
    ------
    ClipError
        When it cannot.
    """
    info: ClipInfo = _backend(path).probe(path)
    return info


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its prefix (PS3.10 7.1), or else by its name."""
    with contained("file cannot be opened"), path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES


def _backend(path: Path) -> ModuleType:
    if not is_dicom(path):
        return video
    try:
        from feat_fed.data.reading import dicom
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"reading DICOM needs {error.name}; install it with: pip install 'feat-fed[client]'"
        ) from None
    return dicom
