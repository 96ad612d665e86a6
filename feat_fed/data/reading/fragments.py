"""Encapsulated pixel data: from fragments to frames, or to one stream (DICOM PS3.5 A.4).

pydicom's own readers take the pixel data as bytes in memory, or walk all fragments anew for
every frame. Here they are walked once; what is kept are their places in the file.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import RawIOBase
from itertools import accumulate, pairwise
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from feat_fed.data.reading.clip import CUT_OFF, TOO_FEW
from feat_fed.data.reading.part10 import PixelElement
from feat_fed.errors import ClipError

UNDECODABLE = "pixel data cannot be decoded"

_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE  # tags as little-endian 32-bit numbers
_END_OF_IMAGE = b"\xff\xd9"  # JPEG, JPEG-LS, JPEG 2000


@dataclass(frozen=True)
class Fragment:
    """Bytes ``start`` to ``start + length_bytes - 1`` of the file."""

    start: int
    length_bytes: int


@dataclass(frozen=True)
class Encapsulated:
    """The fragments, and where frames begin according to the Basic Offset Table, if it is filled.

    Offsets count from the tag of the first fragment's item.
    """

    file: BinaryIO
    fragments: tuple[Fragment, ...]
    table: npt.NDArray[np.uint64]

    def read(self, fragments: Sequence[Fragment]) -> bytes:
        """Return the bytes of some fragments, joined."""
        parts = []
        for fragment in fragments:
            self.file.seek(fragment.start)
            parts.append(self.file.read(fragment.length_bytes))
        return b"".join(parts)

    def by_frame(
        self, num_frames: int, *, extended: npt.NDArray[np.uint64] | None, one_each: bool
    ) -> list[tuple[Fragment, ...]]:
        """Return each frame's fragments; what lies after the last frame is left.

        A table (the extended one first, PS3.3 C.7.6.3.1.8) is believed if it has an entry a
        frame and every entry is the start of a fragment. Without one, frames end where a
        fragment's end looks like an image's, unless there are as many fragments as frames.

        Parameters
        ----------
        one_each
            A frame of this transfer syntax has exactly one fragment (RLE).

        Raises
        ------
        ClipError
            When that gives fewer than ``num_frames``.
        """
        starts = self._starts(num_frames, extended)
        if starts is None and (one_each or len(self.fragments) == num_frames):
            starts = list(range(min(num_frames + 1, len(self.fragments) + 1)))
        elif starts is None and num_frames == 1:
            starts = [0, len(self.fragments)]
        elif starts is None:
            ends = [n for n, each in enumerate(self.fragments, start=1) if self._ends_image(each)]
            starts = [0, *ends][: num_frames + 1]
        if len(starts) < num_frames + 1 or not self.fragments:
            raise ClipError(TOO_FEW)
        return [self.fragments[a:b] for a, b in pairwise(starts)]

    def _starts(self, num_frames: int, extended: npt.NDArray[np.uint64] | None) -> list[int] | None:
        first = self.fragments[0].start if self.fragments else 0
        places = {each.start - first: number for number, each in enumerate(self.fragments)}
        for table in (extended, self.table):
            if table is not None and len(table) == num_frames:
                starts = [places.get(int(offset), -1) for offset in table]
                if starts[0] == 0 and all(a < b for a, b in pairwise(starts)):
                    return [*starts, len(self.fragments)]
        return None

    def _ends_image(self, fragment: Fragment) -> bool:
        """Tell by the last bytes; some encoders pad with more than the one that evens out."""
        tail = min(fragment.length_bytes, 10)
        self.file.seek(fragment.start + fragment.length_bytes - tail)
        return _END_OF_IMAGE in self.file.read(tail)


def encapsulated(file: BinaryIO, pixels: PixelElement) -> Encapsulated:
    """Walk the items up to the delimiter; one that is missing at the very end is forgiven.

    Raises
    ------
    ClipError
        When the file ends inside an item, or holds something else in its place.
    """
    table, position = b"", pixels.start
    fragments: list[Fragment] = []
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8 or position + 8 > pixels.stop:
            break
        tag, length = struct.unpack("<LL", head)
        if tag == _DELIMITER:
            break
        if tag != _ITEM or length == 0xFFFFFFFF:
            raise ClipError(UNDECODABLE)
        position += 8 + length
        if position > pixels.stop:
            raise ClipError(CUT_OFF)
        if position - 8 - length == pixels.start:  # the first item is the table
            table = file.read(length - length % 4)
        else:
            fragments.append(Fragment(position - length, length))
    if position == pixels.start:
        raise ClipError(UNDECODABLE)
    return Encapsulated(file, tuple(fragments), np.frombuffer(table, "<u4").astype(np.uint64))


class FragmentStream(RawIOBase):
    """All fragments as one readable, seekable stream.

    Their borders mean nothing to a video stream (PS3.5 8.2.5), and a byte of padding at the end
    does no harm.
    """

    def __init__(self, data: Encapsulated) -> None:
        self._data = data
        self._begins = [0, *accumulate(each.length_bytes for each in data.fragments)]
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought in."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a byte of the joined stream; before its first is its first."""
        self._at = max(0, offset + (0, self._at, self._begins[-1])[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the end of the current fragment."""
        if self._at >= self._begins[-1]:
            return 0
        number = bisect_right(self._begins, self._at) - 1
        fragment, inside = self._data.fragments[number], self._at - self._begins[number]
        self._data.file.seek(fragment.start + inside)
        data = self._data.file.read(min(len(buffer), fragment.length_bytes - inside))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
