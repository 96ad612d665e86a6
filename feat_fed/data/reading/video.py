"""Video, from a file or from a stream inside DICOM, as RGB frames; no sound is decoded.

Frames come as the decoder gives them, converted to RGB by the stream's own colour tags, and
turned by whole quarter turns where the container says how the camera was held. Pixels that are
not square are left as they are: what is stretched here would be blurred for good, and the square
that training takes has no aspect anyway.

A damaged or cut-off stream is refused as a whole, and so is everything else that this package
reads. What a decoder conceals looks like a picture, so "good up to the damage" cannot be told for
sure; and a file that broke on its way is better fetched again than trained on in part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from feat_fed.data.reading.clip import (
    Cine,
    ClipInfo,
    Frame,
    TimedFrame,
    Window,
    contained,
    contained_steps,
)
from feat_fed.data.reading.seek import TIMED_FORMATS, begins_alike, packet_index, seek
from feat_fed.data.reading.stream import DAMAGED, decoded, open_stream
from feat_fed.errors import ClipError

VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".gif"),
        *(".mpeg", ".mpg", ".m2v", ".vob", ".ts", ".m2ts", ".mts"),
    }
)

_SEEK_FROM_FRAME = 16
"""A window that starts before is decoded from the first frame: that costs no more than a seek."""

_BARE_STREAMS = frozenset({"h264", "hevc", "mpegvideo"})


@contextmanager
def opened(source: Path | BufferedIOBase) -> Iterator[Cine]:
    """Open a file, or a stream that can be sought in.

    Raises
    ------
    ClipError
        When it is no video that can be decoded.
    """
    video = Video(source)
    try:
        yield video
    finally:
        video.close()


class Video:
    """The best video stream of a container, which is opened anew for every pass over it.

    Not every demuxer can go back to the very start, and none gives other packets when opened
    again.
    """

    def __init__(self, source: Path | BufferedIOBase) -> None:
        self._source = source
        self._container, self._stream = open_stream(source)
        self._is_fresh = True

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    @property
    def fps(self) -> float | None:
        """Frames a second on average; of a bare stream, what its headers say, if anything."""
        rate = self._stream.average_rate
        if self._container.format.name in _BARE_STREAMS:
            rate = self._stream.codec_context.framerate
        return float(rate) if rate else None

    def info(self) -> ClipInfo:
        """Count the stream's packets and decode its first frame.

        Raises
        ------
        ClipError
            When it cannot be decoded.
        """
        container, stream = self._fresh()
        num_frames, first = 0, None
        with contained(DAMAGED):
            for packet in container.demux(stream):
                num_frames += bool(packet.size) and not packet.is_discard
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is None:
                raise ClipError(DAMAGED)
            height_px, width_px, _ = _rgb(first).shape
        return ClipInfo(num_frames, height_px, width_px, self.fps)

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the frames of a window.

        Frames are counted as they come out of the decoder from the first on, which is right at
        variable frame rates too and in containers whose header holds no count. A seek is taken
        only where it is certain to give the same frames.

        Raises
        ------
        ClipError
            When the stream is damaged or cut off, in what is decoded of it.
        """
        index, first_pts, decoding = self._from(window.start_frame)
        for frame in contained_steps(decoding, DAMAGED):
            first_pts = frame.pts if index == 0 else first_pts
            offset = index - window.start_frame
            if offset >= 0 and offset % window.stride_frames == 0:
                with contained(DAMAGED):
                    rgb = _rgb(frame)
                yield rgb, self._time_sec(frame, index, first_pts)
            index += 1
            if index == window.stop_frame:
                return

    def _from(self, start_frame: int) -> tuple[int, int | None, Iterator[VideoFrame]]:
        """Return the index of the first frame to come, the stream's first timestamp, and frames."""
        if start_frame >= _SEEK_FROM_FRAME:
            with contained(DAMAGED):
                index = packet_index(*self._fresh())
                if index and start_frame < len(index.shown) and begins_alike(*self._fresh(), index):
                    frames = seek(*self._fresh(), index, start_frame)
                    if frames:
                        return start_frame, index.shown[0], frames
        return 0, None, decoded(*self._fresh())

    def _fresh(self) -> tuple[InputContainer, VideoStream]:
        """Return container and stream at the very start."""
        if not self._is_fresh:
            self._container.close()
            self._container, self._stream = open_stream(self._source)
        self._is_fresh = False
        return self._container, self._stream

    def _time_sec(self, frame: VideoFrame, index: int, first_pts: int | None) -> float | None:
        """Return the timestamp where the container has real ones, or else count by the rate."""
        if self._container.format.name in TIMED_FORMATS:
            if frame.pts is None or first_pts is None or frame.time_base is None:
                return None
            return float((frame.pts - first_pts) * frame.time_base)
        return index / self.fps if self.fps else None


def _rgb(frame: VideoFrame) -> Frame:
    rgb = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb
