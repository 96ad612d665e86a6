"""Clips in MONAI pipelines: the reader that ``LoadImaged`` is given.

MONAI's own readers swap the axes of multi-frame DICOM or read one frame of a video, and which
of them is chosen depends on what happens to be installed: always pass this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader

from feat_fed.data.reading.clip import Clip
from feat_fed.data.reading.pictures import PICTURE_SUFFIXES
from feat_fed.data.reading.reader import DICOM_SUFFIXES, read_clip
from feat_fed.data.reading.video import VIDEO_SUFFIXES


class CineReader(ImageReader):  # type: ignore[misc]
    """Read one clip as (T, H, W, C) uint8, RGB.

    ``LoadImaged(keys, reader=CineReader(), dtype=np.uint8)`` followed by
    ``EnsureChannelFirstd(keys)`` gives (C, T, H, W).

    Parameters
    ----------
    start_frame, stride_frames, num_frames
        The window of :func:`feat_fed.data.reading.reader.read_clip`.
    """

    def __init__(
        self, *, start_frame: int = 0, stride_frames: int = 1, num_frames: int | None = None
    ) -> None:
        super().__init__()
        self._read = partial(
            read_clip,
            start_frame=start_frame,
            stride_frames=stride_frames,
            num_frames=num_frames,
        )

    def verify_suffix(self, filename: Sequence[PathLike[str] | str] | PathLike[str] | str) -> bool:
        """Tell whether the name ends like a clip's."""
        suffixes = VIDEO_SUFFIXES | DICOM_SUFFIXES | PICTURE_SUFFIXES
        return all(Path(each).suffix.lower() in suffixes for each in _names(filename))

    def read(self, data: Sequence[PathLike[str] | str] | PathLike[str] | str) -> Clip:
        """Decode the window of one clip: a file, or the files of a series or a sequence in order.

        Raises
        ------
        ClipError
            When it cannot be decoded or is too short, or several files are no frames of one clip.
        """
        return self._read(tuple(Path(each) for each in _names(data)))

    def get_data(self, img: Clip) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Return the frames and metadata of fixed size, which the default collate can batch."""
        meta = {
            "affine": np.eye(4),
            "original_affine": np.eye(4),
            "space": "RAS",
            "spatial_shape": np.array(img.frames_THWC.shape[:3]),
            "original_channel_dim": -1,
            "fps": float("nan") if img.fps is None else img.fps,
        }
        return img.frames_THWC, meta


def _names(
    data: Sequence[PathLike[str] | str] | PathLike[str] | str,
) -> list[PathLike[str] | str]:
    return [data] if isinstance(data, (str, PathLike)) else list(data)
