"""Whatever is wrong with a file, the answer is a phrase of ours, and nothing of the file's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.data import read_clip
from feat_fed.data.synthetic import write_dicom_h264, write_dicom_jpeg, write_dicom_rle
from feat_fed.errors import ClipError

FRAMES = moving_frames(12)
SECRET = "Mustermann^Erika"
REASONS = {
    "DICOM object without pixel data",
    "damaged video stream",
    "fewer frames than the header says",
    "frame size changes within the clip",
    "frames are too large",
    "frames have no pixels",
    "no decoder for this transfer syntax",
    "file is cut off",
    "frame size is not the header's",
    "more frames in the header than the file can hold",
    "no decoder for this kind of video",
    "no frame can be decoded",
    "no video stream",
    "number of frames is below 1",
    "not a readable DICOM file",
    "not a readable video",
    "number of frames is not a number",
    "pixel data cannot be decoded",
    "sample depth not supported",
    "colour model not supported",
}


def reason(path: Path) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip(path)
    return caught.value.reason


def test_no_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"")
    assert reason(path) == "not a readable video"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert reason(path) == "not a readable video"
    assert reason(tmp_path / "absent.mp4") == "file cannot be opened"


def test_cut_off_video(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", FRAMES, "libx264")
    path.write_bytes(path.read_bytes()[:1500])
    assert reason(path) == "file is cut off"
    path = write_video(tmp_path / "clip.mpg", FRAMES, "mpeg2video")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == "damaged video stream"


def test_a_playlist_cannot_make_us_open_something_else(tmp_path: Path) -> None:
    write_video(tmp_path / "other.ts", FRAMES, "mpeg2video")
    path = tmp_path / "clip.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n")
    assert reason(path) == "not a readable video"
    path.write_text("ffconcat version 1.0\nfile other.ts\n")
    assert reason(path) == "not a readable video"


def test_frame_size_changes(tmp_path: Path) -> None:
    stream = b""
    for number, width in enumerate((64, 80)):
        part = write_video(tmp_path / f"{number}.m2v", moving_frames(6, 48, width), "mpeg2video")
        stream += part.read_bytes()
    path = tmp_path / "clip.mpg"
    path.write_bytes(stream)
    assert reason(path) == "frame size changes within the clip"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"NumberOfFrames": 13}, "fewer frames than the header says"),
        ({"NumberOfFrames": 10**9}, "fewer frames than the header says"),
        ({"NumberOfFrames": 0}, "number of frames is below 1"),
        ({"Rows": 65535, "Columns": 65535}, "frames are too large"),
        ({"Rows": 0}, "frames have no pixels"),
        ({"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"ab"] * 12)}, None),
        ({"PhotometricInterpretation": "CMYK"}, "colour model not supported"),
    ],
)
def test_bad_dicom(tmp_path: Path, attributes: dict[str, object], expected: str | None) -> None:
    path = write_dicom(tmp_path / "clip.dcm", FRAMES, **attributes)
    assert reason(path) == (expected or "pixel data cannot be decoded")


def test_transfer_syntax_that_nobody_decodes(tmp_path: Path) -> None:
    path = tmp_path / "clip.dcm"
    write_dicom_jpeg(path, FRAMES, 25, "patient")
    path.write_bytes(
        path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99")
    )
    assert reason(path) == "no decoder for this transfer syntax"


def test_frame_count_that_is_no_number(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "clip.dcm", FRAMES)
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0012", b"IS\x02\x001A"))
    assert reason(path) == "number of frames is not a number"


def test_missing_frames_and_missing_pixels(tmp_path: Path) -> None:
    path = tmp_path / "clip.dcm"
    write_dicom_jpeg(path, FRAMES, 25, "patient")
    path.write_bytes(path.read_bytes().replace(b"IS\x02\x0012", b"IS\x02\x0014"))
    assert reason(path) in {"fewer frames than the header says", "pixel data cannot be decoded"}
    path.write_bytes(write_dicom(path, FRAMES).read_bytes()[:600])
    assert reason(path) == "DICOM object without pixel data"
    path.write_bytes(b"no DICOM at all")
    assert reason(path) == "not a readable DICOM file"


def _raw(path: Path, frames: np.ndarray, fps: float, patient: str) -> None:
    write_dicom(path, frames, PatientName=patient, PatientID=patient)


@pytest.mark.parametrize(
    "write",
    [_raw, write_dicom_rle, write_dicom_jpeg, write_dicom_h264],
    ids=lambda each: each.__name__,
)
def test_random_damage_says_nothing_of_the_patient(
    tmp_path: Path,
    write: Callable[[Path, np.ndarray, float, str], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    write(tmp_path / "whole.dcm", FRAMES, 25, SECRET)
    whole, rng = (tmp_path / "whole.dcm").read_bytes(), np.random.default_rng(0)
    path, reasons = tmp_path / f"{SECRET}.dcm", set()
    for trial in range(60):
        damaged = bytearray(whole)
        start = int(rng.integers(128, 1500)) if trial % 2 else int(rng.integers(len(whole)))
        if trial % 3:
            damaged[start : start + 6] = rng.bytes(6)
        else:
            del damaged[start:]
        path.write_bytes(damaged)
        try:
            read_clip(path)
        except ClipError as error:
            reasons.add(error.reason)
    assert len(reasons) >= 2
    assert reasons <= REASONS | {"not a readable video"}
    assert not recwarn.list
    said = caplog.text + "".join(capfd.readouterr())
    assert "Mustermann" not in said and "Erika" not in said
