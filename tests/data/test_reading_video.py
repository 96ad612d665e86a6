"""Windows, times and oddities of video against a sequential decode with PyAV alone."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG4HP41, MPEG4HP41F

from clip_files import decode, moving_frames, write_dicom, write_video
from feat_fed.data import iter_frames, probe, read_clip
from feat_fed.data.reading import seek
from feat_fed.data.reading.stream import open_stream
from feat_fed.errors import ClipError

FRAMES = moving_frames(60)
B_FRAMES = {"g": "12", "bf": "2"}
OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "open-gop=1"}
KINDS = {  # name: codec, options, whether a window may be sought
    "closed.mp4": ("libx264", B_FRAMES, True),
    "open.mp4": ("libx264", OPEN_GOP, True),
    "open.mov": ("libx265", {"g": "12", "x265-params": "log-level=none:open-gop=1"}, True),
    "open.mkv": ("libx264", OPEN_GOP, True),
    "refresh.mkv": ("libx264", {"g": "12", "intra-refresh": "1", "bf": "0"}, False),
    "b.ts": ("libx264", B_FRAMES, True),
    "open.ts": ("mpeg2video", B_FRAMES, True),
    "open.mpg": ("mpeg2video", B_FRAMES, True),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}, True),
    "vp8.webm": ("libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}, False),
    "intra.avi": ("mjpeg", {}, True),
    "b.avi": ("libx264", B_FRAMES, False),
    "mpeg4.avi": ("mpeg4", B_FRAMES, False),
    "bare.h264": ("libx264", B_FRAMES, False),
    "bare.m2v": ("mpeg2video", B_FRAMES, False),
    "all.gif": ("gif", {}, False),
}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def encode(
    path: Path,
    codec: str,
    options: dict[str, str],
    *,
    frames: np.ndarray = FRAMES,
    pts: list[int] | None = None,
) -> Path:
    """Write frames; ``pts`` in thousandths of a second make the rate variable."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        if pts:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format=stream.pix_fmt)
            if pts:
                picture.pts, picture.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    folder = tmp_path_factory.mktemp("clips")
    paths = {name: encode(folder / name, *KINDS[name][:2]) for name in KINDS}
    return {name: (path, decode(path)) for name, path in paths.items()}


@pytest.mark.parametrize("name", KINDS)
def test_any_window_is_that_of_a_sequential_decode(
    clips: dict[str, tuple[Path, np.ndarray]], name: str
) -> None:
    path, whole = clips[name]
    assert len(whole) == len(FRAMES) == probe(path).num_frames

    @settings(max_examples=12, deadline=None, database=None)
    @given(start=st.integers(0, 59), stride=st.integers(1, 9), number=st.integers(1, 5))
    def window(start: int, stride: int, number: int) -> None:
        number = min(number, (59 - start) // stride + 1)
        window = {"start_frame": start, "stride_frames": stride, "num_frames": number}
        clip = read_clip(path, **window)
        stop = start + number * stride
        np.testing.assert_array_equal(clip.frames_THWC, whole[start:stop:stride][:number])
        np.testing.assert_array_equal(np.stack(list(iter_frames(path, **window))), clip.frames_THWC)
        np.testing.assert_allclose(clip.times_sec, np.arange(start, stop, stride) / 25, atol=1e-3)

    window()


@pytest.mark.parametrize("name", KINDS)
def test_which_containers_are_sought_in(
    clips: dict[str, tuple[Path, np.ndarray]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late window decodes fewer frames than lie before it, where a seek is exact."""
    from feat_fed.data.reading import video

    decoded = 0

    def counting(*args: object, **options: object) -> object:
        nonlocal decoded
        for frame in seek.decoded.__wrapped__(*args, **options):
            decoded += 1
            yield frame

    counting.__wrapped__ = seek.decoded  # type: ignore[attr-defined]
    original = seek.decoded
    monkeypatch.setattr(seek, "decoded", lambda *a, **k: count(original(*a, **k)))
    monkeypatch.setattr(video, "decoded", lambda *a, **k: count(original(*a, **k)))

    def count(frames: object) -> object:
        nonlocal decoded
        for frame in frames:  # type: ignore[attr-defined]
            decoded += 1
            yield frame

    read_clip(clips[name][0], start_frame=50, num_frames=2)
    assert (decoded < 50) == KINDS[name][2]


def test_a_demuxer_that_lands_behind_is_not_believed(
    clips: dict[str, tuple[Path, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = clips["open.ts"]
    late = property(lambda index: lambda frame: [(0, index.shown[-1])])
    monkeypatch.setattr(seek.PacketIndex, "keys_before", late)
    np.testing.assert_array_equal(read_clip(path, start_frame=30).frames_THWC, whole[30:])


def test_a_stream_that_begins_without_a_key_frame(
    tmp_path: Path, clips: dict[str, tuple[Path, np.ndarray]]
) -> None:
    """Packets that no frame comes of must not shift the count of those that follow."""
    path, data = tmp_path / "late.ts", clips["open.ts"][0].read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 3) :])
    whole = decode(path)
    assert 20 < len(whole) < 60
    part = read_clip(path, start_frame=20, stride_frames=2, num_frames=3).frames_THWC
    np.testing.assert_array_equal(part, whole[20:25:2])


@pytest.mark.parametrize("name", ["vfr.mkv", "vfr.mp4"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    steps = np.random.default_rng(0).choice([20, 40, 90], size=60)
    pts = [int(each) for each in 500 + np.cumsum(steps)]
    path = encode(tmp_path / name, "libx264", B_FRAMES, pts=pts)
    clip = read_clip(path)
    np.testing.assert_allclose(clip.times_sec, (np.array(pts) - pts[0]) / 1000, atol=2e-3)
    late = read_clip(path, start_frame=33, stride_frames=3, num_frames=5)
    np.testing.assert_array_equal(late.frames_THWC, clip.frames_THWC[33:46:3])
    np.testing.assert_allclose(late.times_sec, clip.times_sec[33:46:3])


def test_the_rate_of_a_bare_stream_is_not_guessed(
    clips: dict[str, tuple[Path, np.ndarray]],
) -> None:
    assert probe(clips["bare.m2v"][0]).fps == 25
    data = clips["bare.h264"][0]
    assert probe(data).fps == 25


def test_sound_is_never_decoded(tmp_path: Path) -> None:
    """Garbage in place of the sound changes nothing, and its decoder does not even open."""
    path = tmp_path / "talking.mp4"
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        for frame in FRAMES[:25]:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            container.mux(video.encode(picture))
        noise = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype("f4")
        sound = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        sound.sample_rate = 16000
        for packet in [*video.encode(None), *audio.encode(sound), *audio.encode(None)]:
            container.mux(packet)
    expected, data = decode(path), bytearray(path.read_bytes())
    with av.open(path) as container:
        spans = [(each.pos, each.size) for each in container.demux(audio=0) if each.size]
    assert len(spans) > 10
    for start, size in spans:
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, expected)
    container, _ = open_stream(path)
    with container, pytest.raises(av.FFmpegError):
        container.streams.audio[0].codec_context.options = {"codec_whitelist": "h264"}
        next(container.decode(audio=0))


def rotated(path: Path, matrix: tuple[int, ...]) -> Path:
    """Set the track's display matrix (ISO/IEC 14496-12 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],  # counter-clockwise
)
def test_a_turned_camera(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    path = write_video(tmp_path / "turned.mp4", FRAMES[:8], "libx264")
    upright = decode(path)
    a, b, c, d = (each << 16 for each in matrix)
    rotated(path, (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    np.testing.assert_array_equal(read_clip(path).frames_THWC, np.rot90(upright, turns, (1, 2)))
    info = probe(path)
    assert (info.height_px, info.width_px) == ((48, 64) if turns == 2 else (64, 48))


def test_pixels_that_are_not_square_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "wide.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in FRAMES[:4]:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert read_clip(path).frames_THWC.shape == (4, 48, 64, 3)


@pytest.mark.parametrize("syntax", [MPEG4HP41, MPEG4HP41F])
@pytest.mark.parametrize("name", ["open.mp4", "b.ts", "bare.h264"])
def test_windows_of_a_video_in_dicom(
    tmp_path: Path, clips: dict[str, tuple[Path, np.ndarray]], name: str, syntax: str
) -> None:
    path, whole = clips[name]
    data = path.read_bytes()
    parts = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    wrapped = write_dicom(
        tmp_path / "c.dcm",
        syntax=syntax,
        PixelData=encapsulate(parts, has_bot=False),
        FrameTime="50",
        NumberOfFrames=7,
    )
    clip = read_clip(wrapped, start_frame=31, stride_frames=4, num_frames=6)
    np.testing.assert_array_equal(clip.frames_THWC, whole[31:52:4])
    np.testing.assert_allclose(clip.times_sec, np.arange(31, 52, 4) / 20)  # the header's rate
    info = probe(wrapped)
    assert (info.kind, info.num_frames, info.fps) == ("dicom-video", 60, 20)


@pytest.mark.parametrize("name", [each for each in KINDS if not each.startswith("bare")])
def test_a_stream_cut_in_a_packet_is_refused(
    tmp_path: Path, clips: dict[str, tuple[Path, np.ndarray]], name: str
) -> None:
    path = tmp_path / name
    data = clips[name][0].read_bytes()
    if name.endswith("mp4"):  # the index lies at the end: cut the data before it
        at = data.index(b"moov") - 4
        data = data[: at - 600] + data[at:]
    else:
        data = data[: len(data) * 2 // 3]
    path.write_bytes(data)
    with pytest.raises(ClipError):
        read_clip(path)


def test_an_mp4_cut_between_packets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options=B_FRAMES)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in FRAMES:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with av.open(path) as container:
        ends = [each.pos + each.size for each in container.demux(video=0) if each.size]
    path.write_bytes(path.read_bytes()[: ends[40]])
    for read in (read_clip, probe, lambda each: read_clip(each, start_frame=20, num_frames=2)):
        with pytest.raises(ClipError, match="file is cut off"):
            read(path)


def test_a_table_of_more_samples_than_bytes(tmp_path: Path) -> None:
    """Believed, this one would fill three gigabytes with an index."""
    path = write_video(tmp_path / "bomb.mp4", FRAMES, "libx264")
    data = bytearray(path.read_bytes())
    for kind, body in ((b"stsz", (0, 1, 80_000_000)), (b"stts", (0, 1, 80_000_000, 512))):
        at = data.index(kind) + 4
        data[at : at + 4 * len(body)] = struct.pack(f">{len(body)}L", *body)
    path.write_bytes(data)
    for read in (probe, read_clip):
        with pytest.raises(ClipError, match="more frames in the header than the file can hold"):
            read(path)


def test_a_frame_of_gigabytes(tmp_path: Path, clips: dict[str, tuple[Path, np.ndarray]]) -> None:
    path = tmp_path / "huge.gif"
    data = bytearray(clips["all.gif"][0].read_bytes())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(data)
    with pytest.raises(ClipError):
        read_clip(path)
