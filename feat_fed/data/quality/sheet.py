"""A clip before and after, for the eyes of the person who must approve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from feat_fed.data.quality.clean import cleaned
from feat_fed.data.reading.clip import Box, Frame

_WIDTH_PX = 480
_FIELD_COLOUR, _OVERLAY_COLOUR = (64, 255, 64), (255, 64, 64)


@dataclass(frozen=True)
class Sheet:
    """One frame as it is, and as it would be trained on; RGB, uint8, at most 480 px wide.

    On ``before`` the field is drawn in green and the overlays in red.
    """

    before: npt.NDArray[np.uint8]
    after: npt.NDArray[np.uint8]


def make_sheet(frame: Frame, *, field: Box, overlays: Sequence[Box], masked: bool) -> Sheet:
    """Draw both pictures of a frame, (H, W, 3); ``masked`` says whether overlays are blackened."""
    after = cleaned(frame[None], field=field, overlays=overlays if masked else ())[0]
    before, scale = _small(frame)
    draw = ImageDraw.Draw(before)
    for colour, boxes in ((_FIELD_COLOUR, (field,)), (_OVERLAY_COLOUR, overlays)):
        for box in boxes:
            right, bottom = max(box.left, box.right - 1), max(box.top, box.bottom - 1)
            corners = (box.left, box.top, right, bottom)
            draw.rectangle([round(corner * scale) for corner in corners], outline=colour)
    return Sheet(np.asarray(before), np.asarray(_small(after)[0]))


def _small(frame: Frame) -> tuple[Image.Image, float]:
    picture = Image.fromarray(frame)
    scale = min(1.0, _WIDTH_PX / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BOX), scale
