"""What a compressed frame says of itself, before a decoder is let loose on it.

A few bytes can claim a picture of gigabytes, and a JPEG often knows its colours better than the
DICOM header around it. Markers: ITU-T T.81 B.1.1.3 (JPEG), T.87 C.1.1 (JPEG-LS), T.800 A.5.1
(JPEG 2000).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FRAME_STARTS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "


@dataclass(frozen=True)
class Codestream:
    """Size of the coded picture, and for JPEG what tells its colours.

    ``adobe`` is the place of an APP14 segment and ``transform`` its colour code (0: none, 1:
    YCbCr); ``subsampled`` that components differ in resolution, as those of RGB never do.
    """

    height_px: int
    width_px: int
    subsampled: bool = False
    jfif: bool = False
    adobe: slice | None = None
    transform: int | None = None

    @property
    def is_ycbcr(self) -> bool | None:
        """Whether it must be, or cannot be, YCbCr; ``None`` where the header has to tell.

        The order is that of libjpeg: JFIF before Adobe.
        """
        if self.jfif or self.subsampled:
            return True
        return None if self.transform is None else self.transform == 1


def parse(data: bytes) -> Codestream | None:
    """Read the headers of a JPEG, JPEG-LS or JPEG 2000 picture; ``None`` if it is none of them."""
    try:
        return _jpeg(data) if data[:2] == b"\xff\xd8" else _jpeg2000(data)
    except (struct.error, IndexError, ValueError):
        return None


def _jpeg2000(data: bytes) -> Codestream | None:
    if not data.startswith((_J2K_START, _JP2_SIGNATURE)):
        return None
    at = data.index(_J2K_START)
    right, bottom, left, top = struct.unpack_from(">4L", data, at + 8)
    return Codestream(bottom - top, right - left)


def _jpeg(data: bytes) -> Codestream:
    jfif, adobe, transform, at = False, None, None, 2
    while data[at + 1] not in _FRAME_STARTS:
        if data[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xE0 and segment.startswith(b"JFIF"):
            jfif = True
        elif data[at + 1] == 0xEE and segment.startswith(b"Adobe"):
            adobe = slice(at, at + 2 + length)
            transform = segment[11] if len(segment) > 11 else None  # some writers end before it
        at += 2 + length
    height, width, components = struct.unpack_from(">HHB", data, at + 5)
    factors = {data[at + 11 + 3 * number] for number in range(components)}
    return Codestream(height, width, len(factors) > 1, jfif, adobe, transform)
