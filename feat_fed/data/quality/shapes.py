"""Masks and boxes: growing, shrinking and joining them.

Squares stand in for discs, for filters along one axis after the other are fast; what lies beyond
the frame's edge is taken to be like the edge.

Legend: h and w height and width of the evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from feat_fed.data.quality.evidence import Mask
from feat_fed.data.reading.clip import Box

_SAME = 1.25  # times the larger box: two that fit in there are one


def grown(mask_hw: Mask, *, rows_px: int, columns_px: int) -> Mask:
    """Return the mask with everything that is so near to it."""
    size = (2 * rows_px + 1, 2 * columns_px + 1)
    return np.asarray(ndimage.maximum_filter(mask_hw, size, mode="nearest"))


def shrunk(mask_hw: Mask, *, by_px: int) -> Mask:
    """Return what of the mask is farther than that from its border inside the frame."""
    return np.asarray(ndimage.minimum_filter(mask_hw, 2 * by_px + 1, mode="nearest"))


def opened(mask_hw: Mask, *, by_px: int) -> Mask:
    """Remove what is thinner than ``2 * by_px + 1``."""
    return grown(shrunk(mask_hw, by_px=by_px), rows_px=by_px, columns_px=by_px)


def closed(mask_hw: Mask, *, by_px: int) -> Mask:
    """Fill gaps thinner than ``2 * by_px + 1``."""
    return shrunk(grown(mask_hw, rows_px=by_px, columns_px=by_px), by_px=by_px)


def bounds(mask_hw: Mask) -> Box:
    """Return the smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask_hw.any(axis=1)), np.flatnonzero(mask_hw.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def slices(box: Box) -> tuple[slice, slice]:
    """Return the box as an index of an array."""
    return slice(box.top, box.bottom), slice(box.left, box.right)


def around(one: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    return Box(
        min(one.left, other.left),
        min(one.top, other.top),
        max(one.right, other.right),
        max(one.bottom, other.bottom),
    )


def joined(boxes: Sequence[Box], *, gap_px: float) -> list[Box]:
    """Merge boxes that overlap or lie no farther apart than that, until none do."""
    result: list[Box] = []
    for box in boxes:
        merged = box
        for other in [each for each in result if _near(each, merged, gap_px)]:
            result.remove(other)
            merged = around(merged, other)
        result.append(merged)
    return result if len(result) == len(boxes) else joined(result, gap_px=gap_px)


def merged(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Merge boxes that are nearly the same, or one inside the other, until none are; sorted."""
    result: list[Box] = []
    for box in sorted(boxes, key=lambda each: -each.area_px):
        for place, other in enumerate(result):
            both = around(box, other)
            if both.area_px <= _SAME * other.area_px:
                result[place] = both
                break
        else:
            result.append(box)
    if len(result) < len(boxes):
        return merged(result)
    return tuple(sorted(result, key=lambda box: (box.top, box.left, box.bottom, box.right)))


def _near(one: Box, other: Box, gap_px: float) -> bool:
    apart_x = max(one.left, other.left) - min(one.right, other.right)
    apart_y = max(one.top, other.top) - min(one.bottom, other.bottom)
    return max(apart_x, apart_y) <= gap_px
