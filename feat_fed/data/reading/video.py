"""Video streams, from a file or from memory, through PyAV; sound is never decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from feat_fed.data.reading.clip import ClipInfo, Frame, check_size, contained
from feat_fed.errors import ClipError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpeg", ".mpg", ".ts", ".gif"}
)

# FFmpeg guesses the format from the content: without these lists a playlist that is named
# clip.mp4 would make it open other files, or addresses on the network.
_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,"
    "mpeg,mpegts,mpegvideo,h264,hevc,gif",
    "protocol_whitelist": "file",
}
_NOT_VIDEO = "not a readable video"
_DAMAGED = "damaged video stream"


def iter_frames(source: Path | bytes) -> Iterator[Frame]:
    """Decode the first video stream in order, converted to RGB by its own colour tags.

    Frames are counted as they come out of the decoder, which is right at variable frame
    rates too and in containers whose header holds no count.

    Parameters
    ----------
    source
        A file, or a whole stream in memory (one taken out of a DICOM object).

    Raises
    ------
    ClipError
        When there is no video stream, or any part of it is damaged or cut off.
    """
    with _opened(source) as (container, stream), contained(_DAMAGED):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise ClipError(_DAMAGED)
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ClipError(_DAMAGED)
                check_size(frame.height, frame.width)
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def probe(source: Path | bytes) -> ClipInfo:
    """Count the stream's packets and decode its first frame.

    Raises
    ------
    ClipError
        When there is no video stream or its start cannot be decoded.
    """
    with _opened(source) as (container, stream), contained(_DAMAGED):
        num_frames = 0
        first = None
        for packet in container.demux(stream):
            num_frames += bool(packet.size) and not packet.is_discard
            if first is None:
                first = next(iter(packet.decode()), None)
        if first is None:
            raise ClipError(_DAMAGED)
        check_size(first.height, first.width)
        rate = stream.average_rate
        return ClipInfo(num_frames, first.height, first.width, float(rate) if rate else None)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    with contained(_NOT_VIDEO):
        container = av.open(
            BytesIO(source) if isinstance(source, bytes) else str(source.absolute()),
            mode="r",
            container_options=_OPTIONS,
            metadata_errors="replace",
        )
    with container:
        if not container.streams.video:
            raise ClipError("no video stream")
        yield container, container.streams.video[0]
