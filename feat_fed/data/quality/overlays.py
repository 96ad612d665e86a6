"""Text and marks that a device has drawn on the picture.

Two kinds of evidence, pixel by pixel:

- outside the picture's own shape everything with an edge was drawn by the device;
- on the picture, a thin stroke that stays where it is while tissue and light move past it. Its
  mark is that the slope of the mean picture is nearly the mean of the frames' slopes (equal for
  a thing that stands still, far less for a texture that moves), or that the pixel rests while
  its surroundings do not (the digits of a clock). Anatomy that stands still, such as the layers
  under an ultrasound probe, has soft slopes that run along the beam; letters have hard upright
  strokes. The border of the sector is an edge, but no stroke.

Measured as the share of the letters' pixels that is covered, words of 8 to 24 px:

- on 48 phantoms of seeds not used in choosing the thresholds (128 to 400 px): 97 % where letters
  differ from the picture by 75 grey levels or more (86 % on the smallest sectors), 73 % at 50 to
  75, 54 % at 25 to 50;
- on the eight clips, six of them real, that they were chosen with (208 px and larger): all, 86 %
  and 56 %; after H.264 at crf 28 white text and clocks still in full, mid-grey 72 to 92 %;
- shown for a part of the clip only, at six or five random places and moments each, on an echo
  phantom of 100 frames, an endoscopy phantom of 300 and two lung clips: white words of 12 and 22
  px all but in full from a tenth of the clip on; grey ones (160 levels, 16 px) all from a fifth
  on, and 12 of 20 of those shown for a tenth. Below a tenth the moment decides.

Clean clips that got a mask: none of 31 of lung and one endoscopy (whole, and their first 16 and 48
frames), which the thresholds were chosen with too; of the phantoms, whose tissue stands still
with hard edges, most sectors at 128 px (up to 18 % of the field) and no other.

Missed are faint text, text that moves over the picture, text shown for less than a tenth of the
clip, text on a frozen picture, and text on a texture that stands still itself: a mask is no proof
that nothing is left.

Legend: h and w height and width of the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from feat_fed.data.quality.evidence import Evidence, Floats, Mask
from feat_fed.data.quality.shapes import bounds, grown, shrunk, slices
from feat_fed.data.reading.clip import Box

# Slopes in levels a pixel. Upright edges of anatomy that stood still stayed below 25 in 31 of 32
# whole clips of lung and endoscopy (38 in one); those of white letters on tissue do 60 to 200.
_STROKE_SLOPE = 30
_PART_SLOPE = 45  # for parts of a clip
_STILL_SLOPE, _STILLNESS = 70, (0.4, 0.9)  # for short or quiet clips: share of edges that stand
_FAINT_SLOPE = 16
_OUTSIDE_SLOPE = 16
_STROKE_LEVELS, _STROKE_PX = 20, 11  # how much it differs from both its sides; its widest
_STANDS = 0.7  # slope of the mean over the mean of slopes
_RESTS, _AROUND_RESTS, _AROUND_PX = 0.75, 0.5, 31  # shares of quiet steps
_TEXTURE_AREA, _TEXTURE_HEIGHT = 0.12, 0.4  # of the frame: larger and taller is no text
_MIN_STROKES, _BALANCE = 6, 0.25  # edges up or down in a group, and the rarer over the other
_REACH_PX = 3  # from a hard stroke to the faint ones that belong to it
_BORDER = (
    0.02  # of the shorter side: the picture's own border, where text must begin on either side
)
_LETTER_GAP_PX, _LINE_GAP_PX = 12, 5  # marks closer than that share a box
_MIN_HEIGHT_PX, _MIN_MARKS = 5, 12  # ticks of a scale are smaller
_OUTLINE_SPAN, _OUTLINE_FILL = 0.2, 0.1  # larger than that and emptier: a line, not text
_BOX_FILL = 0.5  # of a box must be near marks, or it is divided
_MARGIN_PX = 3


def find_overlays(
    evidence: Evidence, picture_hw: Mask, *, is_part: bool = False
) -> tuple[Box, ...]:
    """Return boxes around all groups of marks, in pixels of the evidence.

    Lines that span a fifth of the frame and enclose much that is not marked (the outline of a
    colour box, the cursor of a Doppler line) are left alone: they name nobody, and their box
    would blacken the picture.

    Parameters
    ----------
    picture_hw
        Where the picture is; see :class:`feat_fed.data.quality.field.Field`.
    is_part
        Whether the evidence is of a few frames out of many, over which anatomy may stand still:
        then strokes must be harder.
    """
    marks_hw = _without_outlines(_marks(evidence, picture_hw, _PART_SLOPE if is_part else 0))
    near_hw = grown(marks_hw, rows_px=_LINE_GAP_PX, columns_px=_LETTER_GAP_PX)
    groups_hw, _ = ndimage.label(near_hw)
    boxes: list[Box] = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(groups_hw), start=1):
        own_hw = groups_hw[rows, columns] == label
        for box in _divided(own_hw & marks_hw[rows, columns], own_hw):
            boxes.append(_framed(box, columns.start, rows.start).clamped(*marks_hw.shape))
    return tuple(boxes)


def _marks(evidence: Evidence, picture_hw: Mask, least_slope: float) -> Mask:
    border_px = max(3, round(_BORDER * min(picture_hw.shape)))
    outside_hw = ~grown(picture_hw, rows_px=border_px, columns_px=border_px)
    level_hw, edges_hw = evidence.level_hw, evidence.slope_hw
    across_hw = np.diff(level_hw, axis=1, append=level_hw[:, -1:])
    slope_hw = np.abs(across_hw) + np.abs(np.diff(level_hw, axis=0, append=level_hw[-1:]))
    stands_hw = slope_hw >= _STANDS * edges_hw
    around_hw = ndimage.uniform_filter(evidence.quiet_hw, _AROUND_PX, mode="nearest")
    rests_hw = (evidence.quiet_hw >= _RESTS) & (around_hw <= _AROUND_RESTS)
    hard_slope = max(least_slope, _hard_slope(stands_hw, edges_hw, picture_hw))
    strokes_hw = stands_hw & (np.abs(across_hw) >= hard_slope)
    strokes_hw |= rests_hw & (edges_hw >= max(least_slope, _STROKE_SLOPE))
    strokes_hw &= _thin(level_hw)
    strokes_hw = _two_sided(strokes_hw & (across_hw > 0), strokes_hw & (across_hw < 0))
    sure_hw = strokes_hw & shrunk(picture_hw, by_px=border_px)
    sure_hw |= outside_hw & (edges_hw >= _OUTSIDE_SLOPE)
    strokes_hw &= grown(sure_hw, rows_px=_LINE_GAP_PX, columns_px=_LETTER_GAP_PX)
    strokes_hw |= sure_hw
    faint_hw = (stands_hw | rests_hw) & (edges_hw >= _FAINT_SLOPE)
    reach_hw = grown(strokes_hw, rows_px=_REACH_PX, columns_px=_REACH_PX)
    return np.asarray(strokes_hw | (reach_hw & faint_hw))


def _hard_slope(stands_hw: Mask, edges_hw: Floats, picture_hw: Mask) -> float:
    """Return the slope that makes a stroke: the more of the picture stands still, the harder."""
    edge_hw = picture_hw & (edges_hw >= _FAINT_SLOPE)
    standing = float(stands_hw[edge_hw].mean()) if edge_hw.any() else 0.0
    return float(np.interp(standing, _STILLNESS, (_STROKE_SLOPE, _STILL_SLOPE)))


def _thin(level_hw: Floats) -> Mask:
    """Tell where something lighter or darker than both its sides is, or right beside it.

    This is the top-hat transform of both signs; a step, such as the sector's border, has none.
    """
    wide, size = np.pad(level_hw, _STROKE_PX, mode="edge"), (_STROKE_PX, _STROKE_PX)
    light_hw = ndimage.white_tophat(wide, size) >= _STROKE_LEVELS
    dark_hw = ndimage.black_tophat(wide, size) >= _STROKE_LEVELS
    inner = (slice(_STROKE_PX, -_STROKE_PX),) * 2
    return grown((light_hw | dark_hw)[inner], rows_px=1, columns_px=1)


def _two_sided(rising_hw: Mask, falling_hw: Mask) -> Mask:
    """Keep groups with edges up and edges down: every letter has both, a border only one.

    A group that is tall and covers an eighth of the frame is a texture that stands still: lines
    of text are wide, and in a small frame a single one may cover that much.
    """
    strokes_hw = rising_hw | falling_hw
    near_hw = grown(strokes_hw, rows_px=_LINE_GAP_PX, columns_px=_LETTER_GAP_PX)
    groups_hw, groups = ndimage.label(near_hw)
    up = np.bincount(groups_hw[rising_hw], minlength=groups + 1)
    down = np.bincount(groups_hw[falling_hw], minlength=groups + 1)
    kept = np.minimum(up, down) >= np.maximum(_MIN_STROKES, _BALANCE * np.maximum(up, down))
    large = np.bincount(groups_hw.ravel(), minlength=groups + 1) > _TEXTURE_AREA * groups_hw.size
    for label, (rows, _) in enumerate(ndimage.find_objects(groups_hw), start=1):
        tall = rows.stop - rows.start > _TEXTURE_HEIGHT * len(groups_hw)
        kept[label] &= not (tall and large[label])
    return np.asarray(strokes_hw & kept[groups_hw])


def _without_outlines(marks_hw: Mask) -> Mask:
    labels_hw, _ = ndimage.label(marks_hw, np.ones((3, 3)))
    height, width = marks_hw.shape
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels_hw), start=1):
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        if tall < _OUTLINE_SPAN * height and wide < _OUTLINE_SPAN * width:
            continue
        own_hw = labels_hw[rows, columns] == label
        if own_hw.sum() < _OUTLINE_FILL * tall * wide:
            marks_hw[rows, columns][own_hw] = False
    return marks_hw


def _divided(marks_hw: Mask, near_hw: Mask) -> Iterator[Box]:
    """Yield boxes that hold all marks and little else; groups too small for a letter yield none."""
    if marks_hw.sum() < _MIN_MARKS:
        return
    box = bounds(marks_hw)
    tall, wide = box.bottom - box.top, box.right - box.left
    if tall < _MIN_HEIGHT_PX:
        return
    if near_hw[slices(box)].mean() >= _BOX_FILL:
        yield box
        return
    if wide > tall:
        middle = box.left + wide // 2
        halves = (slice(None), slice(None, middle)), (slice(None), slice(middle, None))
    else:
        middle = box.top + tall // 2
        halves = (slice(None, middle), slice(None)), (slice(middle, None), slice(None))
    for half in halves:
        for part in _divided(marks_hw[half], near_hw[half]):
            yield _moved(part, half[1].start or 0, half[0].start or 0)


def _moved(box: Box, right: int, down: int) -> Box:
    return Box(box.left + right, box.top + down, box.right + right, box.bottom + down)


def _framed(box: Box, right: int, down: int) -> Box:
    """Move a box and add a margin; a slope's far side is one pixel to the right or below."""
    moved = _moved(box, right, down)
    return Box(
        moved.left - _MARGIN_PX,
        moved.top - _MARGIN_PX,
        moved.right + _MARGIN_PX + 1,
        moved.bottom + _MARGIN_PX + 1,
    )
