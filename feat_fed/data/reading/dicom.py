"""Multi-frame DICOM, and video streams inside DICOM, as RGB frames.

Pixel semantics are those of DICOM PS3.3 C.7.6.3 (image pixel), C.7.6.5 (cine) and C.11 (look-up
tables); video transfer syntaxes are those of PS3.5 8.2.5 to 8.2.8.

pydicom quotes attribute values and paths in its log; importing this module turns that log off,
and those of the decoders that pydicom calls.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_windowing
from pydicom.uid import MPEGTransferSyntaxes

from feat_fed.data.reading import video
from feat_fed.data.reading.clip import ClipInfo, Frame, check_size, contained
from feat_fed.errors import ClipError

for _name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_UNREADABLE = "not a readable DICOM file"
_UNDECODABLE = "pixel data cannot be decoded"


def iter_frames(path: Path) -> Iterator[Frame]:
    """Decode the frames in order.

    Raises
    ------
    ClipError
        When the file is no DICOM object with pixel data, its transfer syntax or colour has no
        decoder here, or its pixel data are damaged or cut off.
    """
    dataset = _read(path)
    if dataset.file_meta.TransferSyntaxUID in MPEGTransferSyntaxes:
        yield from video.iter_frames(_stream(dataset))
    else:
        yield from _image_frames(dataset)


def probe(path: Path) -> ClipInfo:
    """Read the header and decode the first frame.

    Raises
    ------
    ClipError
        As :func:`iter_frames` would for the first frame.
    """
    dataset = _read(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in MPEGTransferSyntaxes:
        found = video.probe(_stream(dataset))
    else:
        height_px, width_px, _ = next(_image_frames(dataset)).shape
        found = ClipInfo(_stated_frames(dataset), height_px, width_px, None)
    with contained(_UNREADABLE):
        patient_key, source = _patient(dataset)
        return replace(
            found,
            fps=_fps(dataset) or found.fps,
            modality=str(dataset.get("Modality") or "") or None,
            transfer_syntax=str(syntax),
            patient_key=patient_key,
            patient_key_source=source,
        )


def _read(path: Path) -> pydicom.Dataset:
    with contained(_UNREADABLE):
        dataset = pydicom.dcmread(path)
        if not dataset.file_meta.TransferSyntaxUID:
            raise ClipError(_UNREADABLE)
        if "PixelData" not in dataset:
            raise ClipError("DICOM object without pixel data")
        return dataset


def _stream(dataset: pydicom.Dataset) -> bytes:
    """Join the fragments: their borders mean nothing to a video stream (PS3.5 8.2.5).

    ``NumberOfFrames`` and the offset table are ignored, for encapsulators fill them with
    whatever they like; a byte of padding at the end does no harm.
    """
    with contained(_UNDECODABLE):
        buffer = BytesIO(dataset.PixelData)
        parse_basic_offsets(buffer)  # leaves the buffer at the first fragment
        return b"".join(generate_fragments(buffer))


def _image_frames(dataset: pydicom.Dataset) -> Iterator[Frame]:
    with contained("no decoder for this transfer syntax"):
        decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
        if not decoder.is_available:
            raise ClipError("no decoder for this transfer syntax")
    stated = _stated_frames(dataset)
    with contained(_UNREADABLE):
        check_size(int(dataset.Rows), int(dataset.Columns))
    decoded = decoder.iter_array(dataset)
    for _ in range(stated):
        with contained(_UNDECODABLE):
            pixels, properties = next(decoded, (None, None))
            if pixels is None or properties is None:
                raise ClipError("fewer frames than the header says")
            frame = _rgb(pixels, str(properties["photometric_interpretation"]), dataset)
        yield frame


def _rgb(pixels: npt.NDArray[Any], photometric: str, dataset: pydicom.Dataset) -> Frame:
    """Bring one decoded frame (pydicom has already turned YBR into RGB) to RGB uint8."""
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)[..., :3]
        if pixels.dtype == np.uint16:  # entries are spread over 16 bits (PS3.3 C.7.6.3.1.5)
            pixels = (pixels >> 8).astype(np.uint8)
    elif photometric in ("MONOCHROME1", "MONOCHROME2"):
        grey = _grey(pixels, dataset)
        pixels = np.stack([255 - grey if photometric == "MONOCHROME1" else grey] * 3, axis=-1)
    elif photometric != "RGB":
        raise ClipError("colour model not supported")
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ClipError("sample depth not supported")
    return pixels


def _grey(pixels: npt.NDArray[Any], dataset: pydicom.Dataset) -> npt.NDArray[np.uint8]:
    """Apply modality rescale and the first display window, and map the range to 0..255.

    Without a window the whole range that the stored bits can hold is mapped, as PS3.3 C.11.2
    leaves it open.
    """
    bits = int(dataset.BitsStored)
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    ends = apply_rescale(np.array([lowest, lowest + 2**bits - 1]), dataset)
    values = apply_rescale(pixels, dataset)
    if dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        values = apply_windowing(values, dataset)
    low, high = float(ends.min()), float(ends.max())
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _stated_frames(dataset: pydicom.Dataset) -> int:
    with contained("number of frames is not a number"):
        number = int(dataset.get("NumberOfFrames") or 1)
    if number < 1:
        raise ClipError("number of frames is not a number")
    return number


def _fps(dataset: pydicom.Dataset) -> float | None:
    """Frames a second from the cine module (PS3.3 C.7.6.5), the most exact attribute first."""
    frame_time_ms = _number(dataset, "FrameTime") or _mean_of_vector(dataset)
    if frame_time_ms:
        return 1000 / frame_time_ms
    return _number(dataset, "CineRate") or _number(dataset, "RecommendedDisplayFrameRate")


def _number(dataset: pydicom.Dataset, keyword: str) -> float | None:
    try:
        value = float(dataset.get(keyword))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _mean_of_vector(dataset: pydicom.Dataset) -> float | None:
    """Mean of FrameTimeVector, whose first entry belongs to no interval."""
    try:
        intervals_ms = [float(each) for each in dataset.get("FrameTimeVector", ())][1:]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return sum(intervals_ms) / len(intervals_ms) if sum(intervals_ms) > 0 else None


def _patient(
    dataset: pydicom.Dataset,
) -> tuple[str | None, Literal["PatientID", "StudyInstanceUID"] | None]:
    """PatientID, or where it was emptied the study, which is one patient's at least."""
    keywords: tuple[Literal["PatientID", "StudyInstanceUID"], ...] = (
        "PatientID",
        "StudyInstanceUID",
    )
    for keyword in keywords:
        if text := str(dataset.get(keyword) or "").strip():
            return text, keyword
    return None, None
