"""Real files against PyAV and pydicom, and a file that somebody else's program wrote."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, MPEG4HP41

from clip_files import decode, moving_frames, write_dicom, write_video
from feat_fed.data import iter_frames, probe, read_clip
from shared_files import media

VIDEO_FOLDERS = ("endo", "lung_us", "us_phantom")


def plain(path: Path) -> Iterator[np.ndarray]:
    """Decode with PyAV and nothing of ours."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def video_paths() -> list[Path]:
    """Every video there is."""
    return [path for each in VIDEO_FOLDERS for path in sorted(media(each).iterdir())]


def test_every_real_video_equals_pyav() -> None:
    """The first second of every file; all of the shortest of each kind."""
    paths = sorted(video_paths(), key=lambda path: path.stat().st_size)
    shortest = {path.suffix: path for path in reversed(paths)}.values()
    for path in paths:
        info, stop = probe(path), None if path in shortest else 25
        ours, theirs = islice(iter_frames(path), stop), islice(plain(path), stop)
        count = 0
        for frame, expected in zip(ours, theirs, strict=True):
            assert np.array_equal(frame, expected), path.name
            assert frame.shape == (info.height_px, info.width_px, 3)
            count += 1
        assert count == (stop or info.num_frames), path.name


def test_late_windows_of_real_videos() -> None:
    for path in [each for each in video_paths() if "pat" in each.name][:3]:
        expected = [frame for number, frame in enumerate(plain(path)) if number in (150, 157, 164)]
        window = read_clip(path, start_frame=150, stride_frames=7, num_frames=3)
        np.testing.assert_array_equal(window.frames_THWC, expected)
        np.testing.assert_allclose(window.times_sec, [6.0, 6.28, 6.56], atol=1e-6)


def test_every_real_dicom_equals_pydicom() -> None:
    for path in sorted(media("dicom").iterdir()):
        dataset = pydicom.dcmread(path)
        expected = pydicom.pixels.pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            expected = pydicom.pixels.apply_color_lut(expected, dataset)[..., :3] >> 8
        np.testing.assert_array_equal(read_clip(path).frames_THWC, expected)


@pytest.mark.parametrize(
    ("name", "syntax"),
    [("lung_us/Reg_pat1Image_133327.mpeg", MPEG2MPML), ("endo/rvim_endo.mp4", MPEG4HP41)],
)
def test_a_real_video_wrapped_into_dicom(tmp_path: Path, name: str, syntax: str) -> None:
    path = media(name)
    data = path.read_bytes()
    pixels = encapsulate([data + b"\0" * (len(data) % 2)], has_bot=False)
    wrapped = write_dicom(tmp_path / "c.dcm", moving_frames(1), syntax=syntax, PixelData=pixels)
    for number, (ours, theirs) in enumerate(zip(iter_frames(wrapped), plain(path), strict=False)):
        assert np.array_equal(ours, theirs)
        if number == 40:
            break
    assert probe(wrapped).num_frames == probe(path).num_frames


def dumped(header: dict[str, str], pixels: str) -> str:
    """Write what dump2dcm reads: a line an element."""
    lines = [f"({tag}) {value}" for tag, value in header.items()]
    return "\n".join([*lines, pixels]) + "\n"


def dump2dcm(folder: Path, text: str, *options: str) -> Path:
    program = shutil.which("dump2dcm")
    if program is None:
        pytest.skip("dump2dcm is absent (Debian's package dcmtk)")
    (folder / "clip.dump").write_text(text)
    command = [program, *options, str(folder / "clip.dump"), str(folder / "clip.dcm")]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return folder / "clip.dcm"


HEADER = {
    "0008,0016": "UI [1.2.840.10008.5.1.4.1.1.77.1.1.1]",
    "0008,0018": "UI [1.2.3.4]",
    "0008,0060": "CS [ES]",
    "0010,0020": "LO [patient]",
    "0018,1063": "DS [40]",
    "0020,000d": "UI [1.2.3]",
    "0028,0002": "US 3",
    "0028,0004": "CS [RGB]",
    "0028,0006": "US 0",
    "0028,0008": "IS [12]",
    "0028,0010": "US 48",
    "0028,0011": "US 64",
    "0028,0100": "US 8",
    "0028,0101": "US 8",
    "0028,0102": "US 7",
    "0028,0103": "US 0",
}


@pytest.mark.parametrize("options", [["+te"], ["+tb"], ["+ti"], ["+td"]])  # syntaxes
def test_dcmtk_writes_raw_frames(tmp_path: Path, options: list[str]) -> None:
    frames = moving_frames(12)
    (tmp_path / "frames.raw").write_bytes(frames.tobytes())
    path = dump2dcm(tmp_path, dumped(HEADER, "(7fe0,0010) OB =frames.raw"), *options)
    np.testing.assert_array_equal(read_clip(path).frames_THWC, frames)
    assert probe(path).patient_key == "patient"


def test_dcmtk_writes_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", moving_frames(24), "libx264")
    sequence = "\n".join(
        [
            "(7fe0,0010) OB (PixelSequence #=2)",
            "(fffe,e000) pi (no value available)",
            "(fffe,e000) pi =clip.mp4",
            "(fffe,e0dd) na (SequenceDelimitationItem)",
        ]
    )
    syntax = {"0002,0010": "UI [1.2.840.10008.1.2.4.102]"}
    path = dump2dcm(tmp_path, dumped({**syntax, **HEADER}, sequence))
    np.testing.assert_array_equal(read_clip(path).frames_THWC, decode(video))
    assert probe(path).kind == "dicom-video"
