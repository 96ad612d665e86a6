"""Videos to be measured, read window by window.

Legend: N videos, T frames, H height, W width, 3 colour channels (R, G, B).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feat_fed.data.inventory.look import content_sha256
from feat_fed.data.reading.clip import ClipInfo, Source
from feat_fed.data.reading.reader import probe, read_clip
from feat_fed.errors import ClipError, DataError


class ClipSource(Protocol):
    """A sequence of videos that need not fit into memory."""

    @property
    def name(self) -> str:
        """What the videos are called in records."""

    @property
    def digest(self) -> str:
        """SHA-256 over the contents of all videos, in order, wherever they lie."""

    def __len__(self) -> int:
        """Return the number of videos."""

    def num_frames(self, index: int) -> int:
        """Return how many frames a video has, as its container tells.

        Raises
        ------
        DataError
            When the video cannot be read.
        """

    def read(self, index: int, start: int, num_frames: int, stride: int = 1) -> NDArray[np.uint8]:
        """Return frames ``start``, ``start + stride``, ..., (T, H, W, 3); no others are kept.

        Sizes may differ between videos.

        Raises
        ------
        DataError
            When they cannot be decoded, or the video is shorter.
        """

    def label(self, index: int) -> str:
        """Return what a message calls a video."""


class FileClips:
    """Videos in files: any that :mod:`feat_fed.data.reading` decodes.

    Parameters
    ----------
    sources
        A video each: its file, or its frames' files in order.
    labels
        What messages call them.
    patients
        Whose each is, where somebody said so; empty texts elsewhere.
    """

    def __init__(
        self,
        name: str,
        sources: Sequence[Source],
        labels: Sequence[str],
        *,
        patients: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._sources, self._labels = tuple(sources), tuple(labels)
        self._patients = tuple(patients) or ("",) * len(self._sources)
        self._infos: dict[int, ClipInfo] = {}

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._sources)

    def label(self, index: int) -> str:
        """Return the file's path below the folder it was found in."""
        return self._labels[index]

    @cached_property
    def sha256s(self) -> tuple[str, ...]:
        """Each video's content, hashed as a site's manifest does it.

        Raises
        ------
        DataError
            When a file cannot be read.
        """
        digests = []
        for index, source in enumerate(self._sources):
            with self._named(index):
                digests.append(content_sha256(source))
        return tuple(digests)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all of :attr:`sha256s`."""
        return _joined(self.sha256s)

    def patient(self, index: int) -> str:
        """Return the text that tells whose a video is: its DICOM header's, or what was said."""
        return self._info(index).patient_key or self._patients[index]

    def num_frames(self, index: int) -> int:
        """Return how many frames a video has, as its container tells."""
        return self._info(index).num_frames

    def size_px(self, index: int) -> tuple[int, int]:
        """Return height and width of a video's first frame."""
        info = self._info(index)
        return info.height_px, info.width_px

    def read(self, index: int, start: int, num_frames: int, stride: int = 1) -> NDArray[np.uint8]:
        """Return frames ``start``, ``start + stride``, ..., (T, H, W, 3)."""
        with self._named(index):
            return read_clip(
                self._sources[index],
                start_frame=start,
                stride_frames=stride,
                num_frames=num_frames,
            ).frames_THWC

    def renamed(self, name: str) -> FileClips:
        """Return the same videos under another name."""
        other = copy.copy(self)
        other.name = name
        return other

    def _info(self, index: int) -> ClipInfo:
        if index not in self._infos:
            with self._named(index):
                self._infos[index] = probe(self._sources[index])
        return self._infos[index]

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """Say which file it was: these are the caller's own, not a hospital's."""
        try:
            yield
        except ClipError as error:
            source = self._sources[index]
            file = next((each.name for each in source if not _is_readable(each)), "")
            place = f"{self._labels[index]}/{file}" if file and len(source) > 1 else ""
            raise DataError(
                f"{self.name}: {place or self._labels[index]}: {error.reason}; "
                "replace it, or leave it out"
            ) from None


class ArrayClips:
    """Videos in memory, or in a file that is mapped into it.

    Parameters
    ----------
    clips_NTHWC
        uint8, RGB.

    Raises
    ------
    DataError
        When the array has another shape or type.
    """

    def __init__(self, name: str, clips_NTHWC: NDArray[np.uint8]) -> None:
        if clips_NTHWC.ndim != 5 or clips_NTHWC.shape[-1] != 3 or clips_NTHWC.dtype != np.uint8:
            raise DataError(
                f"{name}: an array {clips_NTHWC.shape} of {clips_NTHWC.dtype}, "
                "not (N, T, H, W, 3) of uint8"
            )
        self.name = name
        self._clips_NTHWC = clips_NTHWC

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._clips_NTHWC)

    def label(self, index: int) -> str:
        """Return the number of the clip."""
        return f"clip {index}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shape and pixels."""
        shape = repr(self._clips_NTHWC.shape[1:]).encode()
        return _joined(
            hashlib.sha256(shape + np.ascontiguousarray(clip).tobytes()).hexdigest()
            for clip in self._clips_NTHWC
        )

    def num_frames(self, index: int) -> int:
        """Return T."""
        return int(self._clips_NTHWC.shape[1])

    def read(self, index: int, start: int, num_frames: int, stride: int = 1) -> NDArray[np.uint8]:
        """Return frames ``start``, ``start + stride``, ..., (T, H, W, 3)."""
        stop = start + (num_frames - 1) * stride + 1
        if start < 0 or stride < 1 or num_frames < 1 or stop > self._clips_NTHWC.shape[1]:
            raise DataError(
                f"{self.name}: {self.label(index)}: frames {start} to {stop - 1} are asked for, "
                f"of {self._clips_NTHWC.shape[1]}"
            )
        return np.asarray(self._clips_NTHWC[index, start:stop:stride])


def _is_readable(path: Path) -> bool:
    try:
        probe(path)
    except ClipError:
        return False
    return True


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
