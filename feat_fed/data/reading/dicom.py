"""Multi-frame DICOM, and video streams inside DICOM, as RGB frames.

Pixel semantics are those of DICOM PS3.3 C.7.6.3 (image pixel); video transfer syntaxes are those
of PS3.5 8.2.5 to 8.2.8. Frames of an image syntax are read one by one from their places in the
file; those of a video by seeking, as :mod:`.video` does.

pydicom quotes attribute values and paths in its log; importing this module turns that log off,
and those of the decoders that pydicom calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BufferedReader
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, MPEGTransferSyntaxes, RLELossless

from feat_fed.data.reading import codestream, header, part10, video
from feat_fed.data.reading.clip import (
    CUT_OFF,
    TOO_FEW,
    VOLUME,
    Cine,
    ClipInfo,
    Frame,
    TimedFrame,
    Window,
    check_size,
    contained,
)
from feat_fed.data.reading.colour import NOT_SUPPORTED, Colours
from feat_fed.data.reading.fragments import UNDECODABLE, FragmentStream, encapsulated
from feat_fed.errors import ClipError

for _name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_BUFFER_BYTES = 2**16
_NO_DECODER = "no decoder for this transfer syntax"


@contextmanager
def opened(path: Path) -> Iterator[Cine]:
    """Open a DICOM file of any syntax.

    Raises
    ------
    ClipError
        When the file is no DICOM object with pixel data, its transfer syntax has no decoder
        here, or there are fewer frames than the header says.
    """
    with ExitStack() as stack:
        file = stack.enter_context(part10.opened(path))
        if file.syntax not in MPEGTransferSyntaxes:
            yield ImageCine(file)
            return
        with contained(UNDECODABLE):
            stream = FragmentStream(encapsulated(file.file, file.pixels))
        buffered = stack.enter_context(BufferedReader(stream, _BUFFER_BYTES))
        yield VideoCine(file, stack.enter_context(video.opened(buffered)))


class VideoCine:
    """A video stream in DICOM's envelope.

    NumberOfFrames and the offset table are ignored, for encapsulators fill them with whatever
    they like. The cine module's rate, where it is there, is the object's declared one; the
    stream's own timestamps count where it is not.
    """

    def __init__(self, file: part10.Part10, inner: Cine) -> None:
        self._file, self._inner = file, inner
        with contained(part10.UNREADABLE):
            self._stated_fps = header.frame_rate(file.header)

    @property
    def fps(self) -> float | None:
        """Frames a second."""
        return self._stated_fps or self._inner.fps

    def info(self) -> ClipInfo:
        """Return what header and stream tell."""
        inner = replace(self._inner.info(), fps=self.fps, kind="dicom-video")
        return _described(inner, self._file)

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the stream's frames; audio in it stays untouched."""
        for number, (frame, time_sec) in enumerate(self._inner.frames(window)):
            if self._stated_fps:
                index = window.start_frame + number * window.stride_frames
                time_sec = index / self._stated_fps
            yield frame, time_sec


class ImageCine:
    """Frames coded one by one, or not at all."""

    def __init__(self, file: part10.Part10) -> None:
        self._file, self._header = file, file.header
        with contained(_NO_DECODER):
            self._decoder = get_decoder(file.syntax)
            if not self._decoder.is_available:
                raise ClipError(_NO_DECODER)
        if file.pixels.keyword != "PixelData":
            raise ClipError("sample depth not supported")
        self.num_frames = header.stated_frames(file.header)
        with contained(part10.UNREADABLE):
            check_size(int(file.header.Rows), int(file.header.Columns))
            self._options = _options(file)
            self._colours = Colours(file.header)
        with contained(UNDECODABLE):  # makes sure that the file can hold that many frames
            if file.syntax.is_encapsulated:
                self._fragments = self._find_fragments()
            else:
                self._check_length()
        with contained(part10.UNREADABLE):
            self._times_sec = header.frame_times(file.header, self.num_frames)

    @property
    def fps(self) -> float | None:
        """Frames a second by the cine module."""
        with contained(part10.UNREADABLE):
            return header.frame_rate(self._header)

    def info(self) -> ClipInfo:
        """Return what the header tells, after decoding the first frame.

        Raises
        ------
        ClipError
            When it cannot be decoded, or the frames lie at different places in the patient.
        """
        with contained(part10.UNREADABLE):
            if header.is_volume(self._header):
                raise ClipError(VOLUME)
        height_px, width_px, _ = self.frame(0).shape
        info = ClipInfo(self.num_frames, height_px, width_px, self.fps, kind="dicom")
        return _described(info, self._file)

    def frames(self, window: Window) -> Iterator[TimedFrame]:
        """Decode the frames of a window, and no others."""
        for index in window.indices(self.num_frames):
            time_sec = None if self._times_sec is None else float(self._times_sec[index])
            yield self.frame(index), time_sec

    def frame(self, index: int) -> Frame:
        """Decode one frame.

        Raises
        ------
        ClipError
            When it is damaged, or its colours are none that a cine has.
        """
        with contained(UNDECODABLE):
            decode = self._coded if self._file.syntax.is_encapsulated else self._native
            pixels, photometric = decode(index)
            return self._colours.rgb(pixels, photometric)

    def _native(self, index: int) -> tuple[npt.NDArray[Any], str]:
        self._file.file.seek(self._file.pixels.start)
        pixels, properties = self._decoder.as_array(self._file.file, index=index, **self._options)
        return pixels, str(properties["photometric_interpretation"])

    def _coded(self, index: int) -> tuple[npt.NDArray[Any], str]:
        data = self._encapsulated.read(self._fragments[index])
        options = dict(self._options, number_of_frames=1)
        if self._file.syntax != RLELossless:  # whose frames have the header's size or none
            coded = codestream.parse(data)
            if coded is None:
                raise ClipError(UNDECODABLE)
            if (coded.height_px, coded.width_px) != (self._header.Rows, self._header.Columns):
                raise ClipError("frame size is not the header's")
            if options["samples_per_pixel"] == 3 and self._file.syntax in _LOSSY_JPEG:
                data = _without_adobe(data, coded)
                if coded.is_ycbcr is not None:
                    options["photometric_interpretation"] = (
                        "YBR_FULL_422" if coded.is_ycbcr else "RGB"
                    )
        pixels, properties = self._decoder.as_array(
            encapsulate([data], has_bot=False), index=0, **options
        )
        return pixels, str(properties["photometric_interpretation"])

    def _find_fragments(self) -> list[tuple[Any, ...]]:
        self._encapsulated = encapsulated(self._file.file, self._file.pixels)
        extended = self._header.get("ExtendedOffsetTable")
        return self._encapsulated.by_frame(
            self.num_frames,
            extended=np.frombuffer(extended, "<u8") if extended else None,
            one_each=self._file.syntax == RLELossless,
        )

    def _check_length(self) -> None:
        """Compare the bytes there are with those that the frames need (PS3.5 8.1.1).

        Some writers say YBR_FULL_422 and store every sample: enough bytes for that prove it.
        """
        pixels, options = self._file.pixels, self._options
        if pixels.length_bytes is None:
            raise ClipError(UNDECODABLE)
        bits = options["rows"] * options["columns"] * options["samples_per_pixel"]
        bits *= options["bits_allocated"] * self.num_frames
        there = pixels.stop - pixels.start
        if options["photometric_interpretation"] == "YBR_FULL_422":
            if there * 8 >= bits:
                options["photometric_interpretation"] = "YBR_FULL"
            else:
                bits = floor(bits * 2 / 3)
        if there * 8 < bits:
            raise ClipError(CUT_OFF if there < pixels.length_bytes else TOO_FEW)


_LOSSY_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)


def _options(file: part10.Part10) -> dict[str, Any]:
    """Return pydicom's decoding options; where the header is silent, what everybody writes."""
    options = as_pixel_options(file.header)
    options.pop("extended_offsets", None)
    options.setdefault("pixel_representation", 0)
    options.setdefault("planar_configuration", 0)
    options["pixel_keyword"], options["pixel_vr"] = file.pixels.keyword, file.pixels.vr
    options["transfer_syntax_uid"] = file.syntax
    if str(options["photometric_interpretation"]) in ("CMYK", "ARGB", "HSV"):
        raise ClipError(NOT_SUPPORTED)
    return options


def _without_adobe(data: bytes, coded: codestream.Codestream) -> bytes:
    """Cut the APP14 segment out, so that no decoder converts colours on its own."""
    return data if coded.adobe is None else data[: coded.adobe.start] + data[coded.adobe.stop :]


def _described(info: ClipInfo, file: part10.Part10) -> ClipInfo:
    with contained(part10.UNREADABLE):
        patient_key, source = header.patient(file.header)
        return replace(
            info,
            modality=header.text(file.header, "Modality"),
            transfer_syntax=str(file.syntax),
            patient_key=patient_key,
            patient_key_source=source,
            study_key=header.text(file.header, "StudyInstanceUID"),
            burned_in=header.burned_in(file.header),
            regions=header.regions(file.header, info.height_px, info.width_px),
        )
