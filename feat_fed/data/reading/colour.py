"""Stored DICOM samples into RGB (PS3.3 C.7.6.3, C.7.9, C.11).

Grey levels and palettes go through a table of all values that can be stored, made once for a
clip: every frame gets the same mapping, and mapping one is a look-up.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from feat_fed.data.reading.clip import Frame
from feat_fed.errors import ClipError

NOT_SUPPORTED = "colour model not supported"
_DEPTH = "sample depth not supported"

_SHOWN_BY = {  # attributes that say how grey is shown, and their macros (PS3.3 C.7.6.16.2)
    "PixelValueTransformationSequence": (
        "ModalityLUTSequence",
        "RescaleSlope",
        "RescaleIntercept",
    ),
    "FrameVOILUTSequence": (
        "VOILUTSequence",
        "WindowCenter",
        "WindowWidth",
        "VOILUTFunction",
    ),
}


class Colours:
    """The mapping that one header asks for."""

    def __init__(self, header: Dataset) -> None:
        self._header = header

    def rgb(self, pixels: npt.NDArray[Any], photometric: str) -> Frame:
        """Map one decoded frame, (H, W) or (H, W, 3), which pydicom has turned from YBR to RGB.

        Raises
        ------
        ClipError
            When the colour model or the depth of the samples is none that a cine has.
        """
        if photometric == "PALETTE COLOR":
            first, table = self._palette
            return np.take(table, pixels.astype(np.int32) - first, axis=0, mode="clip")
        if photometric in ("MONOCHROME1", "MONOCHROME2"):
            first, table = self._grey
            grey = np.take(table, pixels.astype(np.int32) - first, mode="clip")
            return np.stack([255 - grey if photometric == "MONOCHROME1" else grey] * 3, axis=-1)
        if photometric != "RGB":
            raise ClipError(NOT_SUPPORTED)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> max(0, int(self._header.BitsStored) - 8)).astype(np.uint8)
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise ClipError(_DEPTH)
        return pixels

    @cached_property
    def _palette(self) -> tuple[int, Frame]:
        """Return the value of the first entry, and all entries, (N, 3).

        Entries are spread over 16 bits (C.7.6.3.1.5) unless they say, or show, that they are
        not. Words are in the file's byte order.
        """
        count, first, depth = (
            int(each) for each in self._header.RedPaletteColorLookupTableDescriptor
        )
        count = count or 2**16
        if "RedPaletteColorLookupTableData" in self._header:
            raw = [self._header[f"{each}PaletteColorLookupTableData"].value for each in _CHANNELS]
            if not self._header.file_meta.TransferSyntaxUID.is_little_endian:
                raw = [np.frombuffer(each, ">u2").astype("<u2").tobytes() for each in raw]
            wide = len(raw[0]) >= 2 * count
            table = np.stack(
                [np.frombuffer(each, "<u2" if wide else "u1")[:count] for each in raw], -1
            )
        elif count > 256 and depth == 8:
            raise ClipError(NOT_SUPPORTED)  # pydicom would wrap the index of these
        else:
            table = apply_color_lut(np.arange(first, first + count), self._header)[..., :3]
        if table.dtype.itemsize > 1 and depth > 8 and table.max(initial=0) > 255:
            table = table >> 8
        return first, table.astype(np.uint8)

    @cached_property
    def _grey(self) -> tuple[int, npt.NDArray[np.uint8]]:
        """Return the lowest stored value and the grey level of it and every one above.

        Modality transformation, then the first VOI table or window, then the range to 0..255.
        Without a window the whole range that the stored bits can hold is mapped, as C.11.2
        leaves it open; the same goes for a window of no width, which some devices write.
        """
        bits, signed = int(self._header.BitsStored), bool(self._header.PixelRepresentation)
        if bits > 16:
            raise ClipError(_DEPTH)
        display = _display(self._header)
        first = -(2 ** (bits - 1)) if signed else 0
        values = apply_modality_lut(np.arange(first, first + 2**bits), display)
        low, high = float(values.min()), float(values.max())
        if "ModalityLUTSequence" in display:
            low, high = 0.0, _top(display.ModalityLUTSequence[0])
        if "VOILUTSequence" in display:
            low, high = 0.0, _top(display.VOILUTSequence[0])
        shown = apply_voi_lut(values, display).astype(np.float64)
        scaled = (shown - low) * (255 / ((high - low) or 1))
        return first, np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


_CHANNELS = ("Red", "Green", "Blue")


def _display(header: Dataset) -> Dataset:
    """Return what of the header says how grey is shown, in one flat dataset.

    In enhanced objects that lies in functional groups; the first frame's is taken for all.
    """
    display = Dataset()
    display.file_meta = header.file_meta
    for keyword in ("BitsStored", "PixelRepresentation", "PhotometricInterpretation"):
        display[keyword] = header[keyword]
    display.PhotometricInterpretation = "MONOCHROME2"  # windows are refused for any but grey
    groups = [
        header[keyword].value[0]
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        if header.get(keyword)
    ]
    for macro, keywords in _SHOWN_BY.items():
        places = [header, *(group[macro].value[0] for group in groups if group.get(macro))]
        for place in places:
            for keyword in keywords:
                if place.get(keyword) is not None:
                    display[keyword] = place[keyword]
    if "WindowWidth" in display and not _width(display) > 0:
        del display.WindowWidth
    return display


def _width(display: Dataset) -> float:
    value = display.WindowWidth
    return float(value if display["WindowWidth"].VM == 1 else value[0])


def _top(item: Dataset) -> float:
    """Return the highest output of a look-up table by its descriptor (C.11.1.1, C.11.2.1.1)."""
    return float(2 ** int(item.LUTDescriptor[2]) - 1)
