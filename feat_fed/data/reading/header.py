"""What a DICOM header tells of a cine besides its pixels.

Sources: PS3.3 C.7.6.5 (cine), C.7.6.6 (multi-frame), C.8.5.5.1.1 (ultrasound regions),
C.7.6.1.1.1 (burned-in annotation).
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from feat_fed.data.reading.clip import Box, contained
from feat_fed.errors import ClipError

_FRAME_TIME_VECTOR = 0x00181065
_IN_VOLUME = "ImagePositionVolume"
_SPATIAL_2D = 1
_MIN_FPS, _MAX_FPS = 0.1, 1000.0  # outside, somebody has mistaken the unit or the attribute
_PICTURES = {1, 2, 0x10}  # region data types: tissue, colour flow, integrated backscatter


def stated_frames(header: Dataset) -> int:
    """Return NumberOfFrames, 1 where it is absent.

    Raises
    ------
    ClipError
        When it is no number, or below 1.
    """
    with contained("number of frames is not a number"):
        stated = header.get("NumberOfFrames")
        number = 1 if stated is None else int(stated)
    if number < 1:
        raise ClipError("number of frames is below 1")
    return number


def frame_times(header: Dataset, num_frames: int) -> npt.NDArray[np.float64] | None:
    """Return when each frame is shown, in seconds since the first; ``None`` if it is not said.

    FrameTimeVector's first entry belongs to no interval. It counts where FrameIncrementPointer
    names it or there is no FrameTime, and only if it has an entry for every frame.
    """
    intervals_ms = _vector(header)
    if len(intervals_ms) == num_frames and _mean_sane(intervals_ms) and _vector_counts(header):
        return np.cumsum([0.0, *intervals_ms[1:]]) / 1000
    fps = frame_rate(header)
    return None if fps is None else np.arange(num_frames) / fps


def frame_rate(header: Dataset) -> float | None:
    """Return frames a second, from the most exact attribute there is.

    Rates below 0.1 and above 1000 are not believed.
    """
    mean_ms = _mean_ms(_vector(header))
    frame_time_ms = _number(header, "FrameTime")
    if mean_ms and (frame_time_ms is None or _vector_counts(header)):
        frame_time_ms = mean_ms
    if frame_time_ms:
        return _sane(1000 / frame_time_ms)
    return _sane(_number(header, "CineRate")) or _sane(
        _number(header, "RecommendedDisplayFrameRate")
    )


def position_mm(header: Dataset) -> tuple[float, ...] | None:
    """Return where in the patient a slice lies (PS3.3 C.7.6.2.1.1); ``None`` if it is not said."""
    for keyword in ("ImagePositionPatient", "SliceLocation"):
        value = header.get(keyword)
        if value is not None:
            with suppress(TypeError, ValueError, ArithmeticError):
                return tuple(float(each) for each in (value if np.iterable(value) else [value]))
    return None


def is_volume(header: Dataset) -> bool:
    """Tell whether the frames of one object lie at different places (PS3.3 C.7.6.16.2.3)."""
    places = set()
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        for keyword in ("PlanePositionSequence", "PlanePositionVolumeSequence"):
            for item in frame.get(keyword) or ():
                places.add(str(item.get("ImagePositionPatient") or item.get(_IN_VOLUME)))
    return len(places) > 1


def patient(
    header: Dataset,
) -> tuple[str | None, Literal["PatientID", "StudyInstanceUID"] | None]:
    """Return PatientID, or where it was emptied the study, which is one patient's at least."""
    keywords: tuple[Literal["PatientID", "StudyInstanceUID"], ...] = (
        "PatientID",
        "StudyInstanceUID",
    )
    for keyword in keywords:
        if found := text(header, keyword):
            return found, keyword
    return None, None


def text(header: Dataset, keyword: str) -> str | None:
    """Return an attribute without the blanks around it; ``None`` if nothing is left."""
    return str(header.get(keyword) or "").strip() or None


def burned_in(header: Dataset) -> bool | None:
    """Return BurnedInAnnotation; ``None`` where it is neither YES nor NO."""
    return {"YES": True, "NO": False}.get((text(header, "BurnedInAnnotation") or "").upper())


def regions(header: Dataset, height_px: int, width_px: int) -> tuple[Box, ...]:
    """Return the ultrasound regions that show tissue or flow in two dimensions.

    Traces, colour bars and the like are none. Both corners belong to the region, so the far
    ones become exclusive here; what lies outside the frame is cut away.
    """
    found = []
    for item in header.get("SequenceOfUltrasoundRegions") or ():
        if item.get("RegionSpatialFormat") != _SPATIAL_2D:
            continue
        if item.get("RegionDataType") not in _PICTURES:
            continue
        left, top, right, bottom = (
            int(item[f"RegionLocation{corner}"].value)
            for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")
        )
        box = Box(left, top, right + 1, bottom + 1).clamped(height_px, width_px)
        if box.area_px:
            found.append(box)
    return tuple(found)


def _sane(fps: float | None) -> float | None:
    return fps if fps is not None and _MIN_FPS <= fps <= _MAX_FPS else None


def _mean_ms(intervals_ms: list[float]) -> float:
    return sum(intervals_ms[1:]) / max(1, len(intervals_ms) - 1)


def _mean_sane(intervals_ms: list[float]) -> bool:
    mean_ms = _mean_ms(intervals_ms)
    return 1000 / _MAX_FPS <= mean_ms <= 1000 / _MIN_FPS


def _vector_counts(header: Dataset) -> bool:
    pointer = header.get("FrameIncrementPointer")
    tags = pointer if isinstance(pointer, (list, tuple)) else [pointer]
    return _FRAME_TIME_VECTOR in tags or _number(header, "FrameTime") is None


def _vector(header: Dataset) -> list[float]:
    try:
        value = header.get("FrameTimeVector") or ()
        intervals_ms = [float(each) for each in (value if np.iterable(value) else [value])]
    except (TypeError, ValueError, ArithmeticError):
        return []
    return intervals_ms if all(math.isfinite(each) and each >= 0 for each in intervals_ms) else []


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        value = float(header.get(keyword))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) and value > 0 else None
