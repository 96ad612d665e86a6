"""Clips that are several files: instances of a DICOM series, and numbered pictures."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import RLELossless

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.data import iter_frames, probe, read_clip
from feat_fed.data.reading.pictures import picture_order, picture_sequences
from feat_fed.data.reading.series import series_frame
from feat_fed.errors import ClipError

FRAMES = moving_frames(12)
SUFFIXES = ["png", "jpg", "bmp", "tif"]


def instances(folder: Path, numbers: range = range(12), **attributes: object) -> list[Path]:
    """Write a frame a file; names say nothing of the order."""
    paths = []
    for place, number in enumerate(numbers):
        path = folder / f"{(place * 7) % 12:02}.dcm"
        more = {"InstanceNumber": number + 1, "SeriesInstanceUID": "1.2.3", **attributes}
        paths.append(write_dicom(path, FRAMES[place : place + 1], **more))
    return paths


def in_order(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(sorted(paths, key=lambda path: series_frame(path).order))


def test_a_series_is_put_in_order_and_read(tmp_path: Path) -> None:
    source = in_order(instances(tmp_path))
    assert len({series_frame(path).series_key for path in source}) == 1
    clip = read_clip(source)
    np.testing.assert_array_equal(clip.frames_THWC, FRAMES)
    np.testing.assert_allclose(clip.times_sec, np.arange(12) / 25)
    window = read_clip(source, start_frame=2, stride_frames=4, num_frames=3)
    np.testing.assert_array_equal(window.frames_THWC, FRAMES[2:11:4])
    np.testing.assert_allclose(window.times_sec, [0.08, 0.24, 0.40])
    info = probe(source)
    assert (info.kind, info.num_frames, info.fps) == ("dicom-series", 12, 25)
    assert (info.height_px, info.width_px, info.patient_key) == (48, 64, "patient")


def test_only_the_frames_of_the_window_are_opened(tmp_path: Path) -> None:
    source = in_order(instances(tmp_path))
    source[-1].write_bytes(b"no DICOM at all, though it should be")
    assert read_clip(source, num_frames=11).frames_THWC.shape[0] == 11
    with pytest.raises(ClipError, match="not a readable DICOM file"):
        list(iter_frames(source))


def test_time_of_day_sorts_where_numbers_are_equal(tmp_path: Path) -> None:
    first = write_dicom(
        tmp_path / "b.dcm", FRAMES[:1], SeriesInstanceUID="1.2", AcquisitionTime="095959.999"
    )
    second = write_dicom(
        tmp_path / "a.dcm", FRAMES[1:2], SeriesInstanceUID="1.2", ContentTime="100000"
    )
    assert in_order([second, first]) == (first, second)


def test_what_is_no_frame_of_a_series(tmp_path: Path) -> None:
    assert series_frame(write_dicom(tmp_path / "clip.dcm", FRAMES)) is None
    lonely = write_dicom(tmp_path / "one.dcm", FRAMES[:1], SeriesInstanceUID="")
    assert series_frame(lonely) is None
    found = series_frame(write_dicom(tmp_path / "two.dcm", FRAMES[:1], SeriesInstanceUID="9.8.7"))
    assert found is not None and "9.8.7" in found.series_key and "9.8.7" not in repr(found)
    with pytest.raises(ClipError, match="not a readable DICOM file"):
        (tmp_path / "bad.dcm").write_bytes(b"bad")
        series_frame(tmp_path / "bad.dcm")


@pytest.mark.parametrize("other", [{"SeriesInstanceUID": "4.5"}, {"Rows": 24, "Columns": 128}])
def test_frames_of_two_series_make_no_clip(tmp_path: Path, other: dict[str, object]) -> None:
    """Two patients' pictures in one clip would be worse than none."""
    one = instances(tmp_path)
    (tmp_path / "other").mkdir()
    two = instances(tmp_path / "other", **other)
    with pytest.raises(ClipError, match="files are not frames of one series"):
        read_clip((*one, two[0]))
    with pytest.raises(ClipError, match="files are not frames of one series"):
        read_clip((one[0], write_dicom(tmp_path / "cine.dcm", FRAMES)))


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "SliceLocation"])
def test_slices_of_a_volume_make_no_clip(tmp_path: Path, keyword: str) -> None:
    def at(depth_mm: int) -> object:
        return depth_mm if keyword == "SliceLocation" else [0, 0, depth_mm]

    for path in (paths := instances(tmp_path, Modality="MR")):
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, at(5))
        dataset.save_as(path)
    assert len(read_clip(in_order(paths)).frames_THWC) == 12  # a cine of one slice
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, at(5 * number))
        dataset.save_as(path)
    with pytest.raises(ClipError, match="slices of a volume, not a cine"):
        read_clip(in_order(paths))


def test_a_volume_in_one_object_is_no_clip(tmp_path: Path) -> None:
    def frame(depth_mm: int) -> pydicom.Dataset:
        plane, group = pydicom.Dataset(), pydicom.Dataset()
        plane.ImagePositionPatient = [0, 0, depth_mm]
        group.PlanePositionSequence = [plane]
        return group

    still = [frame(3) for _ in FRAMES]
    cine = write_dicom(tmp_path / "c.dcm", FRAMES, PerFrameFunctionalGroupsSequence=still)
    assert probe(cine).num_frames == 12
    deeper = [frame(3 * index) for index in range(12)]
    volume = write_dicom(tmp_path / "v.dcm", FRAMES, PerFrameFunctionalGroupsSequence=deeper)
    with pytest.raises(ClipError, match="slices of a volume, not a cine"):
        probe(volume)


def test_compressed_instances(tmp_path: Path) -> None:
    paths = instances(tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_clip(in_order(paths)).frames_THWC, FRAMES)


def pictures(folder: Path, suffix: str, name: str = "frame_{}") -> list[Path]:
    paths = []
    for number, frame in enumerate(FRAMES, start=1):
        paths.append(folder / f"{name.format(number)}.{suffix}")
        Image.fromarray(frame).save(paths[-1], quality=95)
    return paths


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbered_pictures(tmp_path: Path, suffix: str) -> None:
    paths = pictures(tmp_path, suffix)
    source = picture_order(sorted(paths))  # sorted() puts frame_10 before frame_2
    assert source == tuple(paths)
    clip, info = read_clip(source), probe(source)
    expected = np.stack([np.array(Image.open(path).convert("RGB")) for path in paths])
    np.testing.assert_array_equal(clip.frames_THWC, expected)
    assert clip.times_sec is None and clip.fps is None
    assert (info.kind, info.num_frames, info.height_px, info.width_px) == ("images", 12, 48, 64)
    window = read_clip(source, start_frame=1, stride_frames=5, num_frames=3)
    np.testing.assert_array_equal(window.frames_THWC, expected[1:12:5])


def test_sequences_of_a_folder(tmp_path: Path) -> None:
    left, right = pictures(tmp_path, "png", "L2_{}"), pictures(tmp_path, "png", "R_{}_x")
    alone = tmp_path / "cover.png"
    assert picture_sequences([*reversed(left), alone, *right]) == (
        tuple(left),
        tuple(right),
        (alone,),
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("L", lambda frame: np.stack([frame[..., 0]] * 3, -1)),
        ("RGBA", lambda frame: frame),
        ("I;16", lambda frame: np.stack([frame[..., 0]] * 3, -1)),
    ],
)
def test_pictures_of_other_modes(tmp_path: Path, mode: str, expected: object) -> None:
    stored = {
        "L": FRAMES[0, ..., 0],
        "RGBA": np.dstack([FRAMES[0], np.full((48, 64), 9, np.uint8)]),
        "I;16": FRAMES[0, ..., 0].astype(np.uint16) * 257,
    }[mode]
    path = tmp_path / "1.png"
    Image.fromarray(stored).save(path)
    np.testing.assert_array_equal(read_clip((path,)).frames_THWC[0], expected(FRAMES[0]))  # type: ignore[operator]


def test_a_picture_is_turned_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "1.tif"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    Image.fromarray(FRAMES[0]).save(path, exif=exif)
    np.testing.assert_array_equal(read_clip(path).frames_THWC[0], np.rot90(FRAMES[0], -1))


def test_pictures_that_make_no_clip(tmp_path: Path) -> None:
    paths = pictures(tmp_path, "png")
    Image.fromarray(FRAMES[0, :8]).save(paths[3])
    with pytest.raises(ClipError, match="frame size changes within the clip"):
        read_clip(tuple(paths))
    paths[3].write_bytes(paths[2].read_bytes()[:200])
    with pytest.raises(ClipError, match="not a readable picture"):
        read_clip(tuple(paths))
    video = write_video(tmp_path / "clip.mp4", FRAMES, "libx264")
    with pytest.raises(ClipError, match="not a readable picture"):
        read_clip((video, video))
    stack = tmp_path / "stack.tif"
    first, *rest = [Image.fromarray(frame) for frame in FRAMES]
    first.save(stack, save_all=True, append_images=rest)
    with pytest.raises(ClipError, match="several pages in one picture"):
        read_clip((stack,))
    with pytest.raises(ValueError, match="one file at least"):
        read_clip(())


def test_a_picture_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    Image.fromarray(FRAMES[0]).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">LL", 8000, 8000)  # the checksum is wrong, too; Pillow looks later
    path.write_bytes(data)
    with pytest.raises(ClipError):
        read_clip(path)
    Image.new("1", (8000, 8000)).save(path)
    with pytest.raises(ClipError, match="frames are too large"):
        read_clip(path)
