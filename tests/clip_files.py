"""Small clips in every format, for tests that read files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pydicom
from PIL import Image
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian

from feat_fed.data.synthetic import write_dicom_raw

FPS = 25.0


def moving_frames(frames: int = 24, height: int = 48, width: int = 64) -> np.ndarray:
    """Return a coloured pattern that moves, (T, H, W, 3) uint8."""
    t, y, x, c = np.ogrid[:frames, :height, :width, :3]
    wave = np.sin(x / 7 + t / 3 + c) + np.cos(y / 5 - t / 4 + 2 * c)
    return (127.5 + 60 * wave).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, codec: str, pix_fmt: str = "yuv420p") -> Path:
    """Encode with PyAV; the suffix chooses the container."""
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=int(FPS), options=quiet)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def write_frames(folder: Path, frames_THWC: np.ndarray) -> tuple[Path, ...]:
    """Write numbered PNG pictures."""
    folder.mkdir(parents=True)
    paths = tuple(folder / f"{number:06d}.png" for number in range(len(frames_THWC)))
    for path, frame in zip(paths, frames_THWC, strict=True):
        Image.fromarray(frame).save(path)
    return paths


def decode(path: Path) -> np.ndarray:
    """Decode with PyAV and nothing of ours."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_dicom(
    path: Path, frames: np.ndarray | None = None, *, syntax: UID | None = None, **attributes: object
) -> Path:
    """Write uncompressed DICOM, then set attributes (and bytes, and syntax) as they are given."""
    frames = moving_frames() if frames is None else frames
    write_dicom_raw(path, frames, FPS, "patient")
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    correct_ambiguous_vr(dataset, is_little_endian=True)
    dataset.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset["PixelData"].is_undefined_length = True
    little = dataset.file_meta.TransferSyntaxUID.is_little_endian
    pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=little)
    return path
