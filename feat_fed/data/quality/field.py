"""Where on a frame the picture is: the part that an examination, not the device, has drawn.

What moves is picture; menus, names and scales stand still. The picture's parts are joined by
their convex hull, for a sector, a disc and a rectangle are all convex and a shadow in them is
not to be cut out.

Legend: h and w height and width of the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from feat_fed.data.quality.evidence import DARK_BELOW, Evidence, Mask
from feat_fed.data.quality.shapes import bounds, closed, joined, opened, shrunk, slices
from feat_fed.data.reading.clip import Box

FieldFrom = Literal["header", "circle", "content", "whole"]

_WINDOW_PX = 9  # over which motion is averaged
_THIN_PX = 4  # half the width of what is no picture: strokes, traces, lines
_MOVES_LEVELS = 0.4  # the noise in an ultrasound sector's shadow does 1 to 2, black does 0
_PART = 0.25  # of the largest moving part: smaller ones are clocks and traces of an ECG
_LARGER = 1.5  # than what moves: as much may the whole picture be
_HELD = 0.05  # of a header's region must move, if anything does, or the header is wrong
_TOUCH = 0.02  # of the frame's width: regions closer than that are one picture
_ROUND = 0.05  # of the radius: a circle and an octagon (4 %) are that round, a sector is not
_ARC = 0.33  # of the full turn that must be seen where the frame cuts the disc

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """What is kept of each frame, in pixels of the evidence.

    ``picture_hw`` is the picture's own shape inside the box, such as the sector or the disc.
    """

    box: Box
    source: FieldFrom
    picture_hw: Mask


def find_field(evidence: Evidence, regions: Sequence[Box], *, shrunk_by: int) -> Field:
    """Choose the header's region, else the disc, else what moves, else what is not black.

    Parameters
    ----------
    regions
        Of the header, in pixels of the source. Those that touch count as one; of several, the
        one in which most moves is taken, or the largest where nothing moves. Regions in which
        nothing moves, though something else does, are not believed.
    shrunk_by
        How many pixels of the source make one of the evidence, along both axes.
    """
    moving_hw = _moving(evidence)
    inside = [_shrunk(box, shrunk_by) for box in regions]
    header = _best_region(joined(inside, gap_px=_TOUCH * moving_hw.shape[1]), moving_hw)
    if header is not None:
        inside_hw = np.zeros_like(moving_hw)
        inside_hw[slices(header)] = True
        picture_hw = _with_lit(hull(moving_hw & inside_hw), evidence) & inside_hw
        return Field(header, "header", picture_hw if picture_hw.any() else inside_hw)
    if moving_hw.any():
        picture_hw = _with_lit(hull(moving_hw), evidence)
        disc_hw = fit_disc(picture_hw)
        if disc_hw is not None:
            return Field(bounds(disc_hw), "circle", disc_hw)
        return _content(picture_hw)
    return _content(hull(opened(evidence.level_hw >= DARK_BELOW, by_px=_THIN_PX)))


def hull(mask_hw: Mask) -> Mask:
    """Return the convex hull of a mask; the mask itself where it has no area."""
    height, width = mask_hw.shape
    rows = np.flatnonzero(mask_hw.any(axis=1))
    if not rows.size:
        return mask_hw
    left = mask_hw[rows].argmax(axis=1)
    right = width - 1 - mask_hw[rows, ::-1].argmax(axis=1)
    points = np.stack([np.concatenate([left, right]), np.concatenate([rows, rows])], axis=1)
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        return mask_hw
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    return np.array(canvas)


def fit_disc(picture_hw: Mask) -> Mask | None:
    """Return the disc that a convex picture is part of, or ``None`` where it is none.

    The circle is fitted to the border, but for what lies on the frame's edge, by linear least
    squares (Kåsa 1976, doi:10.1109/TIM.1976.6312298). An octagon passes.
    """
    height, width = picture_hw.shape
    border_hw = picture_hw & ~shrunk(picture_hw, by_px=1)
    y, x = np.nonzero(border_hw)
    if x.size < 32:
        return None
    system = np.stack([x, y, np.ones_like(x)], axis=1).astype(np.float64)
    squares = (x**2 + y**2).astype(np.float64)
    (twice_x, twice_y, rest), *_ = np.linalg.lstsq(system, squares, rcond=None)
    centre_x, centre_y = twice_x / 2, twice_y / 2
    radius = float(np.sqrt(max(rest + centre_x**2 + centre_y**2, 0)))
    off = np.abs(np.hypot(x - centre_x, y - centre_y) - radius)
    turn = np.degrees(np.arctan2(y - centre_y, x - centre_x)).astype(int) // 4
    if np.percentile(off, 95) > _ROUND * radius or len(np.unique(turn)) < _ARC * 90:
        return None
    rows, columns = np.ogrid[:height, :width]
    return np.asarray((columns - centre_x) ** 2 + (rows - centre_y) ** 2 <= (radius + 0.5) ** 2)


def _moving(evidence: Evidence) -> Mask:
    """Return the large parts of the frame that move, without thin things that hang on them."""
    mean_hw = ndimage.uniform_filter(evidence.change_hw, _WINDOW_PX, mode="nearest")
    moving_hw = opened(closed(mean_hw > _MOVES_LEVELS, by_px=2), by_px=_THIN_PX)
    labels_hw, parts = ndimage.label(moving_hw)
    if not parts:
        return moving_hw
    sizes = np.bincount(labels_hw.ravel())
    sizes[0] = 0
    large_hw = (sizes >= _PART * sizes.max())[labels_hw]
    # The window smears motion beyond the picture, to pixels that hardly move themselves.
    return np.asarray(large_hw & (evidence.change_hw > 0.75 * _MOVES_LEVELS))


def _with_lit(picture_hw: Mask, evidence: Evidence) -> Mask:
    """Add what stands still but is lit and one with what moves, such as an idle side of a sector.

    A light background, or panels that touch the picture, would make it far larger: then it
    stays as it is.
    """
    lit_hw = opened(evidence.level_hw >= DARK_BELOW, by_px=_THIN_PX) | picture_hw
    labels_hw, _ = ndimage.label(lit_hw)
    own = np.unique(labels_hw[picture_hw])
    larger_hw = hull(np.isin(labels_hw, own[own > 0]))
    return larger_hw if larger_hw.sum() <= _LARGER * picture_hw.sum() else picture_hw


def _content(picture_hw: Mask) -> Field:
    height, width = picture_hw.shape
    whole = Box(0, 0, width, height)
    if not picture_hw.any():
        return Field(whole, "whole", np.ones_like(picture_hw))
    box = bounds(picture_hw)
    return Field(box, "whole" if box == whole else "content", picture_hw)


def _best_region(regions: list[Box], moving_hw: Mask) -> Box | None:
    moving = [int(moving_hw[slices(box)].sum()) for box in regions]
    if moving_hw.any():
        regions = [
            box
            for box, pixels in zip(regions, moving, strict=True)
            if pixels >= _HELD * box.area_px
        ]
    return max(
        regions,
        key=lambda box: (int(moving_hw[slices(box)].sum()), box.area_px),
        default=None,
    )


def _shrunk(box: Box, by: int) -> Box:
    return Box(box.left // by, box.top // by, -(-box.right // by), -(-box.bottom // by))
