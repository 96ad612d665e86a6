"""What a video file claims, against its size, before FFmpeg believes it.

FFmpeg builds the index of a mov or an mp4 from the counts in its tables, and lets a file end
wherever it does: nine kilobytes can make it fill three gigabytes, and half a Matroska file reads
like a whole short one. Layouts: ISO/IEC 14496-12 4.2, 8.7.3 and 8.8.8 (boxes of mov and mp4), RFC
8794 (EBML, Matroska), RIFF (AVI), GIF89a 27, ISO/IEC 13818-1 2.4.3.2 (transport stream).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from feat_fed.data.reading.clip import CUT_OFF
from feat_fed.errors import ClipError

_FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_HOLD_BOXES = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # bytes from the body's start to a 32-bit count
_TS_PACKET_BYTES = 188
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def check_claims(source: Path | BufferedIOBase) -> None:
    """Look at the sizes and counts in the structure of a file.

    Raises
    ------
    ClipError
        When the file should be longer than it is, or hold more frames than it has bytes.
    OSError
        When the file cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            _check(file)
    else:
        _check(source)


def _check(file: BinaryIO | BufferedIOBase) -> None:
    size_bytes = file.seek(0, 2)
    file.seek(max(0, size_bytes - 64))
    tail = file.read(64)
    file.seek(0)
    head = file.read(2 * _TS_PACKET_BYTES + 1)
    if head.startswith(_EBML):
        is_whole = _segment_stop(head) <= size_bytes
    elif head.startswith(b"RIFF"):  # some writers count these eight bytes, too: forgiven
        is_whole = int.from_bytes(head[4:8], "little") <= size_bytes
    elif head.startswith(b"GIF8"):
        is_whole = tail.rstrip(b"\0").endswith(b";")
    elif head[::_TS_PACKET_BYTES] == b"GGG":
        is_whole = size_bytes % _TS_PACKET_BYTES <= 1  # one byte of padding
    elif head[4:8] in _FIRST_BOXES:
        is_whole = _check_boxes(file, size_bytes) <= size_bytes
    else:
        is_whole = True
    if not is_whole:
        raise ClipError(CUT_OFF)


def _segment_stop(head: bytes) -> int:
    """Return where the segment ends that follows the EBML header; 0 if that is left open."""
    try:
        at, length = _varint(head, 4)
        at += length
        if head[at : at + 4] != _SEGMENT:
            return 0
        body, length = _varint(head, at + 4)
    except IndexError:
        return 0
    left_open = length == 2 ** (7 * (body - at - 4)) - 1  # all ones
    return 0 if left_open else body + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a variable-length number (RFC 8794 4); return the place behind it, and its value."""
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big")
    return at + width, value & ~(1 << (7 * width))


def _check_boxes(file: BinaryIO | BufferedIOBase, size_bytes: int) -> int:
    """Return where the last box ends."""
    stop = 0
    for kind, start, end in _boxes(file, 0, size_bytes):
        stop = max(stop, end)
        if kind in _COUNT_AT:
            file.seek(start + _COUNT_AT[kind])
            if int.from_bytes(file.read(4), "big") > size_bytes:
                raise ClipError("more frames in the header than the file can hold")
    return stop


def _boxes(file: BinaryIO | BufferedIOBase, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes, into those that hold others; yield kinds, and bounds of bodies."""
    while at + 8 <= stop:
        file.seek(at)
        size, kind = struct.unpack(">L4s", file.read(8))
        body = at + 8
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
            body += 8
        end = at + size if size else stop
        if end < body:
            return
        yield kind, body, end
        if kind in _HOLD_BOXES:
            yield from _boxes(file, body, min(end, stop))
        at = end
