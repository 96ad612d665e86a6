"""A clip before and after, for the eyes of the person who must approve it.

Legend: H and W height and width of the source, h and w those of a still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from feat_fed.data.quality.clean import cleaned
from feat_fed.data.quality.evidence import Schedule
from feat_fed.data.reading.clip import Box, Frame

_WIDTH_PX = 480
_STILL_PX = 960  # the largest width of what is remembered of a frame
_KEPT_FRAMES = 8  # of which one is near the middle
_GAP_PX = 4
_FIELD_COLOUR, _OVERLAY_COLOUR, _GAP_COLOUR = (64, 255, 64), (255, 64, 64), 255


@dataclass(frozen=True)
class Sheet:
    """A first, a middle and a last frame below each other; RGB, uint8, at most 480 px wide.

    ``before`` has them as they are, with the field drawn in green and the overlays in red;
    ``after`` as they would be trained on.
    """

    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]


class Stills:
    """Frames for a sheet, of a clip of unknown length; memory for one whole and eight small ones.

    ``width_px`` is the source's.
    """

    def __init__(self, width_px: int) -> None:
        self._scale = min(1.0, _STILL_PX / width_px)
        self._schedule = Schedule(_KEPT_FRAMES)
        self._kept: list[Frame] = []
        self._last: tuple[int, Frame] | None = None

    def add(self, frame: Frame, index: int) -> None:
        """Remember frame ``index``, (H, W, 3), as the last, and perhaps as one before it."""
        if self._schedule.fills(index):
            self._kept = self._kept[::2]
        if self._schedule.wants(index):
            self._kept.append(self._small(frame))
        self._last = index, frame.copy()

    def sheet(self, *, field: Box, overlays: Sequence[Box], masked: bool) -> Sheet:
        """Draw both pictures; ``masked`` says whether overlays are blackened.

        Parameters
        ----------
        field, overlays
            In pixels of the source.

        Raises
        ------
        ValueError
            When there is no frame.
        """
        chosen = np.stack(self._chosen())
        field, overlays = self._scaled(field), [self._scaled(box) for box in overlays]
        after = cleaned(chosen, field=field, overlays=overlays if masked else ())
        return Sheet(
            _stacked([_outlined(still, field, overlays) for still in chosen]),
            _stacked([_fitting(still)[0] for still in after]),
        )

    def _chosen(self) -> list[Frame]:
        """Return the first, the one nearest to the middle, and the last, if they are three."""
        if self._last is None:
            raise ValueError("a sheet shows one frame at least")
        index, last = self._last[0], self._small(self._last[1])
        middle = round(index / 2 / self._schedule.stride_frames)
        if index < 2:
            return [*self._kept[:index], last]
        return [self._kept[0], self._kept[min(middle, len(self._kept) - 1)], last]

    def _small(self, frame: Frame) -> Frame:
        return np.array(_resized(Image.fromarray(frame), self._scale))

    def _scaled(self, box: Box) -> Box:
        """Bring a box of the source to the still's pixels, outwards."""
        left, top = int(box.left * self._scale), int(box.top * self._scale)
        right, bottom = (-int(-side * self._scale // 1) for side in (box.right, box.bottom))
        return Box(left, top, right, bottom)


def _outlined(still: Frame, field: Box, overlays: Sequence[Box]) -> Image.Image:
    picture, scale = _fitting(still)
    draw = ImageDraw.Draw(picture)
    for colour, boxes in ((_FIELD_COLOUR, (field,)), (_OVERLAY_COLOUR, overlays)):
        for box in boxes:
            right, bottom = max(box.left, box.right - 1), max(box.top, box.bottom - 1)
            corners = (box.left, box.top, right, bottom)
            draw.rectangle([round(corner * scale) for corner in corners], outline=colour)
    return picture


def _stacked(pictures: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
    """Put pictures of one size below each other, with a line between."""
    gap_HWC = np.full((_GAP_PX, pictures[0].width, 3), _GAP_COLOUR, np.uint8)
    rows = chain.from_iterable((gap_HWC, np.asarray(picture)) for picture in pictures)
    return np.concatenate(list(rows)[1:])


def _fitting(frame: Frame) -> tuple[Image.Image, float]:
    picture = Image.fromarray(frame)
    scale = min(1.0, _WIDTH_PX / picture.width)
    return _resized(picture, scale), scale


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return picture
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BOX)
