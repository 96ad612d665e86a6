"""Decoded frames against the wrapped stream, and against what pydicom and PyAV give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.examples import get_path
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPML,
    MPEG4HP41,
    MPEG4HP41F,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from clip_files import FPS, decode, moving_frames, write_dicom, write_video
from feat_fed.data import iter_frames, probe, read_clip
from feat_fed.data.synthetic import write_dicom_jpeg
from feat_fed.errors import ClipError

FRAMES = moving_frames()

VIDEOS = [
    ("clip.mp4", "libx264"),
    ("clip.mov", "libx265"),
    ("clip.avi", "mpeg4"),
    ("clip.mkv", "libx264"),
    ("clip.mpg", "mpeg2video"),
    ("clip.ts", "mpeg2video"),
]


@pytest.mark.parametrize(("name", "codec"), VIDEOS)
def test_video_file_equals_pyav(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, FRAMES, codec)
    clip, info = read_clip(path), probe(path)
    np.testing.assert_array_equal(clip.frames_THWC, decode(path))
    assert clip.frames_THWC.shape == FRAMES.shape
    assert (info.num_frames, info.height_px, info.width_px, info.fps) == (24, 48, 64, FPS)
    assert np.abs(clip.frames_THWC - FRAMES.astype(float)).mean() < 12


def test_gif_gives_all_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.gif", FRAMES, "gif", "rgb8")
    np.testing.assert_array_equal(read_clip(path).frames_THWC, decode(path))
    assert probe(path).num_frames == 24


@pytest.mark.parametrize(
    ("name", "codec", "syntax"),
    [
        ("clip.mp4", "libx264", MPEG4HP41),
        ("clip.ts", "libx264", MPEG4HP41F),
        ("clip.h264", "libx264", MPEG4HP41),
        ("clip.mpg", "mpeg2video", MPEG2MPML),
        ("clip.mp4", "libx265", HEVCMP51),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7])
def test_video_in_dicom_is_the_wrapped_stream(
    tmp_path: Path, name: str, codec: str, syntax: pydicom.uid.UID, pieces: int
) -> None:
    video = write_video(tmp_path / name, FRAMES, codec)
    data = video.read_bytes()
    step = -(-len(data) // pieces // 2) * 2  # fragments have even lengths (PS3.5 A.4)
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    pixels = encapsulate(parts, has_bot=pieces > 1)  # a table, and a frame count, that lie
    path = write_dicom(tmp_path / "c.dcm", syntax=syntax, PixelData=pixels, NumberOfFrames=pieces)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, decode(video))
    assert probe(path).num_frames == 24


def test_uncompressed_and_lossless_dicom_are_exact(tmp_path: Path) -> None:
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        path = write_dicom(tmp_path / "clip.dcm", FRAMES)
        np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES)
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
        np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES)


def test_planar_and_big_endian(tmp_path: Path) -> None:
    planar = np.ascontiguousarray(FRAMES.transpose(0, 3, 1, 2)).tobytes()
    path = write_dicom(tmp_path / "p.dcm", PixelData=planar, PlanarConfiguration=1)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES)
    path = write_dicom(tmp_path / "b.dcm", syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, FRAMES)


def test_jpeg_colour_is_rgb(tmp_path: Path) -> None:
    path = tmp_path / "clip.dcm"
    write_dicom_jpeg(path, FRAMES, FPS, "patient")
    frames = read_clip(path).frames_THWC
    np.testing.assert_array_equal(frames, pydicom.pixels.pixel_array(pydicom.dcmread(path)))
    assert np.abs(frames - FRAMES.astype(float)).mean() < 3


def test_monochrome(tmp_path: Path) -> None:
    grey = FRAMES[..., 0]
    attributes = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    path = write_dicom(tmp_path / "m.dcm", PixelData=grey.tobytes(), **attributes)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, np.stack([grey] * 3, -1))
    attributes["PhotometricInterpretation"] = "MONOCHROME1"
    path = write_dicom(tmp_path / "m.dcm", PixelData=grey.tobytes(), **attributes)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, np.stack([255 - grey] * 3, -1))


def test_sixteen_bits_go_through_the_window(tmp_path: Path) -> None:
    stored = np.linspace(0, 4095, FRAMES[..., 0].size).reshape(FRAMES.shape[:3]).astype("<u2")
    bits = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "SamplesPerPixel": 1}
    window = {"WindowCenter": "1000", "WindowWidth": "1001"}
    path = write_dicom(
        tmp_path / "m.dcm",
        PixelData=stored.tobytes(),
        PhotometricInterpretation="MONOCHROME2",
        **bits,
        **window,
    )
    shown = read_clip(path).frames_THWC[..., 0]
    # PS3.3 C.11.2.1.2.1: from 499.5 to 1499.5 the range is linear
    expected = np.clip((stored.astype(float) - 499.5) / 1000, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.51


def test_palette(tmp_path: Path) -> None:
    table = np.arange(256, dtype="<u2")
    luts = {}
    for colour, factor in (("Red", 1), ("Green", 2), ("Blue", 3)):
        luts[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        luts[f"{colour}PaletteColorLookupTableData"] = ((table * factor % 256) << 8).tobytes()
    index = FRAMES[..., 0]
    path = write_dicom(
        tmp_path / "p.dcm",
        PixelData=index.tobytes(),
        SamplesPerPixel=1,
        PhotometricInterpretation="PALETTE COLOR",
        **luts,
    )
    expected = np.stack([index, index.astype(int) * 2 % 256, index.astype(int) * 3 % 256], -1)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, expected)


def test_windows_of_a_clip(tmp_path: Path) -> None:
    for path in (
        write_dicom(tmp_path / "clip.dcm"),
        write_video(tmp_path / "clip.mpg", FRAMES, "mpeg2video"),
    ):
        whole = read_clip(path).frames_THWC
        part = read_clip(path, start_frame=3, stride_frames=5, num_frames=4).frames_THWC
        np.testing.assert_array_equal(part, whole[3:19:5])
        with pytest.raises(ClipError, match="fewer frames than asked for"):
            read_clip(path, start_frame=3, stride_frames=5, num_frames=6)
        with pytest.raises(ValueError, match="stride_frames 0"):
            read_clip(path, stride_frames=0)


@pytest.mark.parametrize(
    ("attributes", "fps"),
    [
        ({}, 25.0),
        ({"FrameTime": None, "FrameTimeVector": [0, *[20] * 23]}, 50.0),
        ({"FrameTime": None, "CineRate": 30}, 30.0),
        ({"FrameTime": "0", "RecommendedDisplayFrameRate": 12}, 12.0),
        ({"FrameTime": None}, None),
    ],
)
def test_frame_rate(tmp_path: Path, attributes: dict[str, object], fps: float | None) -> None:
    assert probe(write_dicom(tmp_path / "clip.dcm", **attributes)).fps == fps


def test_patient_key(tmp_path: Path) -> None:
    info = probe(write_dicom(tmp_path / "c.dcm", PatientID=" A 1 "))
    assert (info.patient_key, info.patient_key_source, info.modality) == ("A 1", "PatientID", "ES")
    assert "A 1" not in repr(info)
    info = probe(write_dicom(tmp_path / "c.dcm", PatientID="", StudyInstanceUID="1.2.3"))
    assert (info.patient_key, info.patient_key_source) == ("1.2.3", "StudyInstanceUID")


def test_pydicoms_own_cine() -> None:
    path = Path(get_path("ybr_color"))
    frames = read_clip(path).frames_THWC
    assert frames.shape == (30, 240, 320, 3)
    np.testing.assert_array_equal(frames, pydicom.pixels.pixel_array(path))


def test_frames_come_one_at_a_time(tmp_path: Path) -> None:
    frames = iter_frames(write_dicom(tmp_path / "clip.dcm"))
    np.testing.assert_array_equal(next(frames), FRAMES[0])
