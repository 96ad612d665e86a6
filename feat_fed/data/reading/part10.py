"""A DICOM file with its pixels left on the disk.

pydicom reads a whole object into memory. Here the header is parsed up to the pixel data, whose
place in the file is kept: a probe costs kilobytes, and no length that a damaged header claims is
ever allocated. Layout: DICOM PS3.10 7.1 (file), PS3.5 7.1 (element) and A.5 (deflated).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from feat_fed.data.reading.clip import contained
from feat_fed.errors import ClipError

UNREADABLE = "not a readable DICOM file"

_MAX_VALUE_BYTES = 2**24  # of a header's element; the largest used are tables of times and colours
_MAX_INFLATED_BYTES = 2**30
_UNDEFINED = 0xFFFFFFFF
_PIXELS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}


@dataclass(frozen=True)
class PixelElement:
    """Where the value of the pixel data lies: bytes ``start`` to ``stop - 1`` of the file.

    ``length_bytes`` is what the element claims, ``None`` for an undefined length; the file may
    end before.
    """

    keyword: str
    vr: str | None
    start: int
    stop: int
    length_bytes: int | None


@dataclass(frozen=True)
class Part10:
    """An opened DICOM file: what comes before the pixels, and where those are.

    ``file`` is the file itself, or a deflated one inflated in memory.
    """

    header: pydicom.Dataset
    syntax: UID
    file: BinaryIO
    pixels: PixelElement


@contextmanager
def opened(path: Path) -> Iterator[Part10]:
    """Read the header.

    Raises
    ------
    ClipError
        When the file is no DICOM object with pixel data.
    """
    with contained(UNREADABLE):
        file: BinaryIO = _Frugal(path)
    with file:
        with contained(UNREADABLE):
            meta = read_file_meta_info(path)
            syntax = meta.TransferSyntaxUID
            if not syntax:
                raise ClipError(UNREADABLE)
            find = _Find()
            if syntax == DeflatedExplicitVRLittleEndian:
                find.file = _inflated(file, 132 + 12 + meta.FileMetaInformationGroupLength)
                header = read_dataset(find.file, False, True, stop_when=find)
                header.file_meta = meta
            else:
                find.file = file
                header = read_partial(file, stop_when=find, defer_size=_MAX_VALUE_BYTES)
        if find.pixels is None:
            raise ClipError("DICOM object without pixel data")
        yield Part10(header, syntax, find.file, find.pixels)


def beginning(path: Path, *, last_tag: int) -> pydicom.Dataset:
    """Return the header up to a tag, also of a file that is damaged behind it or has no pixels.

    Raises
    ------
    ClipError
        When it is no DICOM file, or is damaged before.
    """
    with contained(UNREADABLE), _Frugal(path) as file:
        return read_partial(
            file, stop_when=lambda tag, *_: tag > last_tag, defer_size=_MAX_VALUE_BYTES
        )


class _Find:
    """Stops pydicom's parser at the pixel data, and notes where it stopped."""

    file: BinaryIO
    pixels: PixelElement | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag not in _PIXELS:
            return False
        start = self.file.tell()
        end = self.file.seek(0, 2)
        self.file.seek(start)
        claimed = None if length == _UNDEFINED else length
        stop = end if claimed is None else min(end, start + claimed)
        self.pixels = PixelElement(_PIXELS[tag], vr, start, stop, claimed)
        return True


class _Frugal(BufferedReader):
    """A file that allocates no more for a read than it has left to give."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._end = self.seek(0, 2)
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        """Read as any file does."""
        if size is not None and size > _MAX_VALUE_BYTES:
            size = max(0, min(size, self._end - self.tell()))
        return super().read(size)


def _inflated(file: BinaryIO, start: int) -> BytesIO:
    file.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), _MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise ClipError("deflated data are too large")
    return BytesIO(data)
