"""What a clip is once it has been read, and how libraries that read one are contained.

Legend: T frames, H height, W width, C colour channels (always 3: R, G, B).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from feat_fed.errors import ClipError

T = TypeVar("T")

Frame = npt.NDArray[np.uint8]
"""One frame, (H, W, 3), RGB."""

TimedFrame = tuple[Frame, float | None]
"""A frame and when it is shown, in seconds since the source's first; ``None``: it is not said."""

Source = tuple[Path, ...]
"""The files of one clip: a single one, or those of a series, a frame each, in order."""

Kind = Literal["dicom", "dicom-video", "dicom-series", "video", "images"]
"""Multi-frame DICOM, a video stream inside DICOM, single-frame DICOM instances of a series, a
video file, a folder of numbered pictures."""

MAX_FRAME_PX = 2**25
"""A frame with more pixels than 8K video is a damaged header, or an attack on the memory."""

CUT_OFF = "file is cut off"
TOO_FEW = "fewer frames than the header says"
VOLUME = "slices of a volume, not a cine"


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, half open: columns ``left`` to ``right - 1``, rows likewise."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area_px(self) -> int:
        """Pixels inside; 0 for a box turned inside out."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def clamped(self, height_px: int, width_px: int) -> Box:
        """Return what of the box lies inside an image; its area may be 0."""
        return Box(
            max(self.left, 0),
            max(self.top, 0),
            min(self.right, width_px),
            min(self.bottom, height_px),
        )


@dataclass(frozen=True)
class Window:
    """Which frames of a source are wanted: ``start_frame``, ``start_frame + stride_frames``, ...

    Raises
    ------
    ValueError
        When it starts before the first frame, stands still or holds nothing.
    """

    start_frame: int = 0
    stride_frames: int = 1
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if (
            self.start_frame < 0
            or self.stride_frames < 1
            or (self.num_frames is not None and self.num_frames < 1)
        ):
            raise ValueError(
                f"start_frame {self.start_frame}, stride_frames {self.stride_frames}, "
                f"num_frames {self.num_frames}: the window must start at 0 or later and hold at "
                "least one frame"
            )

    @property
    def stop_frame(self) -> int | None:
        """One past the last frame wanted; ``None`` for all there are."""
        if self.num_frames is None:
            return None
        return self.start_frame + (self.num_frames - 1) * self.stride_frames + 1

    def indices(self, num_frames: int) -> range:
        """Return which of ``num_frames`` frames are wanted."""
        stop = num_frames if self.stop_frame is None else min(self.stop_frame, num_frames)
        return range(self.start_frame, stop, self.stride_frames)


@dataclass(frozen=True)
class Clip:
    """Decoded frames.

    Parameters
    ----------
    frames_THWC
        RGB, uint8.
    fps
        Frames a second of the source, before any stride; ``None`` where the file does not say.
    times_sec
        When each frame is shown, (T,), counted from the source's first frame; ``None`` where the
        file does not say. Uneven steps are a variable frame rate.
    """

    frames_THWC: npt.NDArray[np.uint8]
    fps: float | None
    times_sec: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ClipInfo:
    """What :func:`feat_fed.data.reading.reader.probe` learns of a file.

    Parameters
    ----------
    num_frames
        As the container tells: the decoder may still find fewer.
    kind
        Which way the source is read.
    modality, transfer_syntax
        DICOM's; ``None`` for a plain video file.
    patient_key
        Text that identifies the patient. It stays out of ``repr`` and must go through the
        site's keyed hash before it is kept anywhere.
    patient_key_source
        Which DICOM attribute gave it; ``None`` where the file names no patient.
    study_key
        StudyInstanceUID; treated as ``patient_key`` is.
    burned_in
        BurnedInAnnotation (PS3.3 C.7.6.1.1.1); ``None`` where the file does not say.
    regions
        Boxes of SequenceOfUltrasoundRegions (PS3.3 C.8.5.5.1.1) that hold an image of tissue or
        flow, clamped to the frame; empty ones are left out.
    """

    num_frames: int
    height_px: int
    width_px: int
    fps: float | None
    kind: Kind = "video"
    modality: str | None = None
    transfer_syntax: str | None = None
    patient_key: str | None = field(default=None, repr=False)
    patient_key_source: Literal["PatientID", "StudyInstanceUID"] | None = None
    study_key: str | None = field(default=None, repr=False)
    burned_in: bool | None = None
    regions: tuple[Box, ...] = ()


class Cine(Protocol):
    """An opened source, whatever its kind."""

    @property
    def fps(self) -> float | None:
        """Frames a second; ``None`` where the source does not say."""

    def info(self) -> ClipInfo:
        """Return what the header tells, after decoding the first frame."""

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the frames of a window that exist; their sizes may differ."""


@contextmanager
def contained(reason: str) -> Iterator[None]:
    """Turn whatever a library raises into ``ClipError(reason)`` and drop its warnings.

    Both may quote the file, names and identifiers included. Warning filters belong to the
    whole process, so files are read by one thread at a time. A MemoryError is the machine's
    trouble, not the file's, and stays one: what a file may make us allocate is bounded.

    Raises
    ------
    ClipError
        With ``reason``, or the one raised inside.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (ClipError, MemoryError):
            raise
        except Exception:
            raise ClipError(reason) from None


def contained_steps(steps: Iterator[T], reason: str) -> Iterator[T]:
    """Contain an iterator's own work, and nothing of what its consumer does in between.

    Raises
    ------
    ClipError
        As :func:`contained` does.
    """
    while True:
        with contained(reason):
            try:
                step = next(steps)
            except StopIteration:
                return
        yield step


def check_size(height_px: int, width_px: int) -> None:
    """Refuse a frame that no device makes.

    Raises
    ------
    ClipError
        When it is empty or has more than :data:`MAX_FRAME_PX` pixels.
    """
    if height_px < 1 or width_px < 1:
        raise ClipError("frames have no pixels")
    if height_px * width_px > MAX_FRAME_PX:
        raise ClipError("frames are too large")
