"""Single-frame DICOM instances of one series as one clip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import MPEGTransferSyntaxes

from feat_fed.data.reading import header, part10
from feat_fed.data.reading.clip import VOLUME, Cine, ClipInfo, Source, TimedFrame, Window, contained
from feat_fed.data.reading.dicom import ImageCine
from feat_fed.errors import ClipError


@dataclass(frozen=True)
class SeriesFrame:
    """Where a single-frame instance belongs.

    Parameters
    ----------
    series_key
        Equal for instances that can be frames of one clip: of one patient, study, series, class
        and size. (Anonymisers write one UID into the files of many patients.) It holds
        identifiers and is treated as :attr:`.clip.ClipInfo.patient_key` is.
    order
        Sorts the frames: InstanceNumber, then the time of day of acquisition (of content, where
        that is absent) in seconds.
    """

    series_key: str = field(repr=False)
    order: tuple[float, ...]


def series_frame(path: Path) -> SeriesFrame | None:
    """Tell whether a DICOM file is a single frame of a series; ``None`` if it is a clip itself.

    Raises
    ------
    ClipError
        When it is no DICOM object with pixel data.
    """
    with part10.opened(path) as file:
        return _series_frame(file)


def _series_frame(file: part10.Part10) -> SeriesFrame | None:
    if file.syntax in MPEGTransferSyntaxes or header.stated_frames(file.header) > 1:
        return None
    with contained(part10.UNREADABLE):
        uid = header.text(file.header, "SeriesInstanceUID")
        if uid is None:
            return None
        rest = ("PatientID", "StudyInstanceUID", "SOPClassUID", "Rows", "Columns")
        key = repr([uid, *(header.text(file.header, each) for each in rest)])
        return SeriesFrame(key, _order(file.header))


@contextmanager
def opened(source: Source) -> Iterator[Cine]:
    """Take instances, in the order given, for the frames of a clip."""
    yield Series(source)


class Series:
    """Instances as frames; the first one's header speaks for all."""

    def __init__(self, source: Source) -> None:
        self._source = source
        with part10.opened(source[0]) as file:
            self._first = _series_frame(file)
            with contained(part10.UNREADABLE):
                self._fps = header.frame_rate(file.header)
                self._position_mm = header.position_mm(file.header)

    @property
    def fps(self) -> float | None:
        """Frames a second by the cine attributes of the first instance."""
        return self._fps

    def info(self) -> ClipInfo:
        """Count the instances and decode the first."""
        with self._instance(0) as cine:
            info = cine.info()
        return replace(info, num_frames=len(self._source), fps=self._fps, kind="dicom-series")

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the instances of a window.

        Raises
        ------
        ClipError
            When one cannot be decoded, is no frame of the first one's series, or lies at another
            place in the patient.
        """
        for index in window.indices(len(self._source)):
            with self._instance(index) as cine:
                frame = cine.frame(0)
            yield frame, index / self._fps if self._fps else None

    @contextmanager
    def _instance(self, index: int) -> Iterator[ImageCine]:
        with part10.opened(self._source[index]) as file:
            found = _series_frame(file)
            if found is None or self._first is None or found.series_key != self._first.series_key:
                raise ClipError("files are not frames of one series")
            with contained(part10.UNREADABLE):
                if header.position_mm(file.header) != self._position_mm:
                    raise ClipError(VOLUME)
            yield ImageCine(file)


def _order(dataset: Dataset) -> tuple[float, ...]:
    clock = header.text(dataset, "AcquisitionTime") or header.text(dataset, "ContentTime") or ""
    return (_integer(dataset), _seconds(clock))


def _integer(dataset: Dataset) -> float:
    try:
        return float(dataset.get("InstanceNumber") or 0)
    except (TypeError, ValueError, ArithmeticError):
        return 0.0


def _seconds(clock: str) -> float:
    """Return DICOM's HHMMSS.FFFFFF (PS3.5 6.2, TM) in seconds; 0 for anything else."""
    match = re.match(r"(\d\d):?(\d\d):?(\d\d(?:\.\d{1,6})?)", clock)
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3]) if match else 0.0
