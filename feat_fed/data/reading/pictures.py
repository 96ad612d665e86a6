"""A folder of numbered pictures as one clip, through Pillow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from feat_fed.data.reading.clip import (
    Cine,
    ClipInfo,
    Frame,
    Source,
    TimedFrame,
    Window,
    check_size,
    contained,
)
from feat_fed.errors import ClipError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_UNREADABLE = "not a readable picture"


def picture_order(paths: Iterable[Path]) -> Source:
    """Sort by the numbers in the names as a person would: frame_2 before frame_10."""
    return tuple(sorted(paths, key=lambda path: (_natural(path.name), path.name)))


def picture_sequences(paths: Iterable[Path]) -> tuple[Source, ...]:
    """Sort pictures into clips: equal folders and names that differ in the last number only.

    A picture without a number, or alone of its name, is a sequence of one.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        stem = re.sub(r"\d+(?=\D*$)", "#", path.stem)
        groups.setdefault((path.parent, stem + path.suffix.lower()), []).append(path)
    return tuple(picture_order(groups[key]) for key in sorted(groups))


@contextmanager
def opened(source: Source) -> Iterator[Cine]:
    """Take pictures, in the order given, for the frames of a clip."""
    yield Pictures(source)


class Pictures:
    """Pictures as frames: nobody says how long each is shown."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def fps(self) -> float | None:
        """Nothing: pictures have no rate."""
        return None

    def info(self) -> ClipInfo:
        """Count the pictures and decode the first."""
        height_px, width_px, _ = _decode(self._source[0]).shape
        return ClipInfo(len(self._source), height_px, width_px, None, kind="images")

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the pictures of a window."""
        for index in window.indices(len(self._source)):
            yield _decode(self._source[index]), None


def _decode(path: Path) -> Frame:
    """Return one picture as RGB, turned as its EXIF orientation says; alpha is dropped.

    Raises
    ------
    ClipError
        When it cannot be decoded, holds several pages or samples of an unusual depth.
    """
    with contained(_UNREADABLE), Image.open(path, formats=_FORMATS) as picture:
        check_size(picture.height, picture.width)
        if getattr(picture, "n_frames", 1) != 1:
            raise ClipError("several pages in one picture")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I;16"):
            grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
            return np.stack([grey] * 3, axis=-1)
        if upright.mode in ("I", "F"):
            raise ClipError("sample depth not supported")
        return np.array(upright.convert("RGB"))


def _natural(name: str) -> list[tuple[int, str]]:
    """Split a name into texts and numbers that compare as such."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
