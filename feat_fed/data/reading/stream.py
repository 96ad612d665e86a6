"""Opening a video stream without trusting it, and decoding it from where it stands (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from feat_fed.data.reading.claims import check_claims
from feat_fed.data.reading.clip import MAX_FRAME_PX, check_size, contained
from feat_fed.errors import ClipError

DAMAGED = "damaged video stream"

ONE_FRAME_A_PACKET = frozenset(
    {
        *("h264", "hevc", "mpeg1video", "mpeg2video", "vp9", "libdav1d", "av1", "ffv1", "png"),
        *("mjpeg", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "dvvideo", "prores"),
    }
)
"""Decoders that give a frame for every packet: none hidden (VP8), none skipped (MPEG-4)."""

_DECODERS = ONE_FRAME_A_PACKET | {
    *("mpeg4", "msmpeg4", "msmpeg4v2", "msmpeg4v1", "wmv1", "wmv2", "h263", "svq3"),
    *("gif", "vp8", "msvideo1", "msrle", "cinepak", "indeo3", "indeo5"),
}

# FFmpeg guesses the format from the content: without these lists a playlist that is named
# clip.mp4 would make it open other files, or addresses on the network, and it would run any of
# some hundred decoders, those of sound among them, to find out what a file holds.
_WHITELIST = ",".join(sorted(_DECODERS))
_CONTAINER_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,"
    "mpeg,mpegts,mpegvideo,h264,hevc,gif",
    "protocol_whitelist": "file",
    "codec_whitelist": _WHITELIST,
}
_MAX_PIXELS = {"max_pixels": str(MAX_FRAME_PX)}


def open_stream(source: Path | BufferedIOBase) -> tuple[InputContainer, VideoStream]:
    """Open a file, or a stream that can be sought in, and choose its best video stream.

    Raises
    ------
    ClipError
        When there is none, or no decoder for it.
    """
    with contained("not a readable video"):
        check_claims(source)
        if not isinstance(source, Path):
            source.seek(0)
        container = av.open(
            str(source.absolute()) if isinstance(source, Path) else source,
            mode="r",
            container_options=_CONTAINER_OPTIONS,
            options=_MAX_PIXELS,
            metadata_errors="replace",
        )
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        container.close()
        raise ClipError("no video stream")
    # PyAV leaves the context out where FFmpeg has no decoder at all
    decoder = getattr(stream, "codec_context", None)
    if decoder is None or decoder.codec.name not in _DECODERS:
        container.close()
        raise ClipError("no decoder for this kind of video")
    decoder.options = {"codec_whitelist": _WHITELIST, **_MAX_PIXELS}
    return container, stream


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode on from where the stream stands.

    Raises
    ------
    ClipError
        When anything on the way is damaged.
    """
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ClipError(DAMAGED)
        for frame in packet.decode():
            if frame.is_corrupt:
                raise ClipError(DAMAGED)
            check_size(frame.height, frame.width)
            yield frame
