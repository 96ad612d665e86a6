"""Damaged files: whatever is thrown at the reader, it answers in time, in memory, in our words.

The reader runs in a process of its own, which this one watches: a decoder that crashes or hangs
fails the test instead of ending it. ``FEAT_FED_FUZZ_EXAMPLES`` (default 10) is how many damaged
files of each kind are tried; with it set they differ from run to run.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from clip_files import FPS, moving_frames, write_dicom, write_video
from feat_fed.data.synthetic import write_dicom_h264, write_dicom_jpeg

EXAMPLES = int(os.environ.get("FEAT_FED_FUZZ_EXAMPLES", "10"))
DEADLINE_SEC = 30
GROWTH_BYTES = 1.5e9
SECRET = "Mustermann"

FRAMES = moving_frames(24)
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
VIDEOS = {
    "h264.mp4": "libx264",
    "hevc.mov": "libx265",
    "mjpeg.avi": "mjpeg",
    "mpeg4.avi": "mpeg4",
    "h264.mkv": "libx264",
    "vp9.webm": "libvpx-vp9",
    "mpeg2.mpg": "mpeg2video",
    "h264.ts": "libx264",
    "bare.h264": "libx264",
    "palette.gif": "gif",
}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}
DICOM = ["raw", "rle", "j2k", "jls", "deflated", "jpeg", "h264", "grey", "lossless", "palette"]
PICTURES = ["png", "jpg", "tif", "bmp"]
KINDS = [*VIDEOS, *(f"{each}.dcm" for each in DICOM), *(f"1.{each}" for each in PICTURES)]

WORKER = """
import json, resource, sys
from pathlib import Path
from feat_fed.data import probe, read_clip
from feat_fed.data.reading.series import series_frame
from feat_fed.errors import ClipError
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
calls = [
    probe, read_clip, series_frame, lambda path: read_clip((path, path)),
    lambda path: read_clip(path, start_frame=17, stride_frames=2, num_frames=2),
]
for line in sys.stdin:
    path, answers = Path(line.strip()), []
    for call in calls:
        try:
            call(path)
            answers.append("")
        except ClipError as error:
            answers.append(error.reason)
        except BaseException as error:
            answers.append("UNCONTAINED " + repr(error))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([answers, peak]), flush=True)
"""


def write_sample(path: Path) -> Path:
    name, kind = path.stem, path.suffix
    if path.name in VIDEOS:
        codec = VIDEOS[path.name]
        return write_video(path, FRAMES, codec, PIXELS.get(codec, "yuv420p"))
    if kind != ".dcm":
        Image.fromarray(FRAMES[0]).save(path)
    elif name == "jpeg":
        write_dicom_jpeg(path, FRAMES, FPS, SECRET)
    elif name == "h264":
        write_dicom_h264(path, FRAMES, FPS, SECRET)
    elif name == "lossless":
        path.write_bytes((SHIPPED / "SC_rgb_jpeg_gdcm.dcm").read_bytes())
    elif name == "palette":
        path.write_bytes((SHIPPED / "examples_palette.dcm").read_bytes())
    elif name == "grey":
        path.write_bytes((SHIPPED / "MR_small.dcm").read_bytes())
    else:
        dataset = pydicom.dcmread(write_dicom(path, FRAMES, PatientName=SECRET))
        syntaxes = {"rle": RLELossless, "j2k": JPEG2000Lossless, "jls": JPEGLSLossless}
        if name in syntaxes:
            dataset.compress(syntaxes[name])
        if name == "deflated":
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(path)
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    return {name: write_sample(folder / name).read_bytes() for name in KINDS}


class Reader:
    """The watched process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.baseline: float | None = None

    def read(self, path: Path) -> list[str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_SEC)
        assert ready, f"no answer within {DEADLINE_SEC} s"
        line = self.process.stdout.readline()
        assert line, f"the process died: exit code {self.process.wait(5)}"
        answers, peak = json.loads(line)
        self.baseline = self.baseline or peak
        assert peak - self.baseline < GROWTH_BYTES, f"{(peak - self.baseline) / 1e9:.1f} GB"
        return answers

    def close(self) -> str:
        """End the process, and return what it said besides its answers."""
        self.process.kill()
        return self.process.communicate()[1]


@pytest.fixture(scope="module")
def reader() -> Iterator[list[Reader]]:
    """One process for all; a test that loses it puts another in its place."""
    readers = [Reader()]
    yield readers
    said = "".join(each.close() for each in readers)
    assert SECRET not in said


PLACES = st.one_of(
    st.integers(0, 2**31),
    st.integers(0, 400),
    st.integers(100, 2000),
)
VALUES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(
        [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xd9"]
    ),
)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("overwrite"), PLACES, VALUES),
        st.tuples(st.just("insert"), PLACES, VALUES),
        st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
        st.tuples(st.just("remove"), PLACES, st.integers(1, 300)),
        st.tuples(st.just("cut"), PLACES, st.none()),
        st.tuples(st.just("splice"), PLACES, st.tuples(st.sampled_from(KINDS), PLACES)),
    ),
    min_size=1,
    max_size=5,
)


def damaged(data: bytes, edits: list[tuple[str, int, object]], samples: dict[str, bytes]) -> bytes:
    out = bytearray(data)
    for edit, place, value in edits:
        at = place % (len(out) + 1)
        if edit == "overwrite":
            out[at : at + len(value)] = value
        elif edit == "insert":
            out[at:at] = value
        elif edit == "flip" and at < len(out):
            out[at] ^= 1 << value
        elif edit == "remove":
            del out[at : at + value]
        elif edit == "cut":
            del out[at:]
        elif edit == "splice":
            other = samples[value[0]]
            start = value[1] % len(other)
            out[at:] = other[start : start + 20_000]
    return bytes(out)


@pytest.mark.parametrize("name", KINDS)
def test_damage_ends_in_frames_or_a_reason(
    tmp_path: Path, samples: dict[str, bytes], reader: list[Reader], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(samples[name])
    assert reader[-1].read(path)[0] == "", "the undamaged file is read"

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="FEAT_FED_FUZZ_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(edits=EDITS)
    def throw(edits: list[tuple[str, int, object]]) -> None:
        path.write_bytes(damaged(samples[name], edits, samples))
        try:
            answers = reader[-1].read(path)
        except AssertionError:
            reader.append(Reader())
            raise
        for answer in answers:
            assert not answer.startswith("UNCONTAINED"), answer
            assert SECRET not in answer and str(tmp_path) not in answer

    throw()
