"""From any frame on without decoding those before, where that gives the very same frames.

The n-th frame of a sequential decode is found by its timestamp: all packets are read, none is
decoded, and their timestamps in order are those of the frames, if every packet makes one frame.
That is so for some codecs, and is checked at the start of the stream. Decoding then begins at a
key frame before, which must really be an intra picture (a refresh that wanders over the picture is
flagged as a key frame, too): what is shown before it may lack its references (an open GOP) and is
thrown away; what is shown after it does not look back beyond it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from feat_fed.data.reading.stream import ONE_FRAME_A_PACKET, decoded

TIMED_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpeg", "mpegts", "gif"})
"""Containers whose timestamps say when a frame is shown. AVI counts, a bare stream has none."""

_KEY_FRAMES_ONLY = frozenset(
    {"mjpeg", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "png", "dvvideo"}
)
_CHECKED_FRAMES = 4
_TRIES = 3


@dataclass(frozen=True)
class PacketIndex:
    """Timestamps of a stream, in units of its time base.

    Parameters
    ----------
    shown
        Of every frame, in the order in which they are shown.
    keys
        When a key frame is shown and when it is decoded (shown, where that is not said).
    """

    shown: list[int]
    keys: list[tuple[int, int]]

    def keys_before(self, frame: int) -> list[tuple[int, int]]:
        """Return the last key frames that are shown no later than a frame, the nearest first."""
        place = bisect_right(self.keys, self.shown[frame], key=lambda key: key[0])
        return self.keys[max(0, place - _TRIES) : place][::-1]


def packet_index(container: InputContainer, stream: VideoStream) -> PacketIndex | None:
    """Read all packets of a freshly opened stream; ``None`` if frames can't be told by them."""
    codec = stream.codec_context.codec.name
    if codec not in ONE_FRAME_A_PACKET:
        return None
    if container.format.name not in TIMED_FORMATS and codec not in _KEY_FRAMES_ONLY:
        return None
    shown, keys = [], []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.pts is None or packet.is_corrupt:
            return None
        shown.append(packet.pts)
        if packet.is_keyframe:
            keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    unique = len(set(shown)) == len(shown)
    return PacketIndex(sorted(shown), sorted(keys)) if unique else None


def begins_alike(container: InputContainer, stream: VideoStream, index: PacketIndex) -> bool:
    """Tell whether the first frames of a stream that was just opened bear the first timestamps.

    They do not where leading frames cannot be decoded, or packets hold single fields.
    """
    start = [frame.pts for frame in islice(decoded(container, stream), _CHECKED_FRAMES)]
    return start == index.shown[: len(start)] and len(start) > 0


def seek(
    container: InputContainer, stream: VideoStream, index: PacketIndex, frame: int
) -> Iterator[VideoFrame] | None:
    """Go to a frame; the iterator begins with it. ``None`` if the demuxer does not get there.

    MPEG program and transport streams are sought by guessing, which may end behind the target.
    """
    target, reset_pts = index.shown[frame], {pts for pts, _ in index.keys}
    for _, dts in index.keys_before(frame):
        container.seek(dts, stream=stream)
        frames, is_reset = decoded(container, stream), False
        for candidate in frames:
            if candidate.pts is None or candidate.pts > target:
                break
            is_reset |= candidate.pts in reset_pts and candidate.pict_type == PictureType.I
            if candidate.pts == target and is_reset:
                return chain([candidate], frames)
    return None
