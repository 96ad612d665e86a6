"""What needs no network: whether frames are as sharp as real ones, and videos as steady.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, of R, G and B."""


def sharpness(clip_THWC: NDArray[np.uint8]) -> float:
    """Return the mean square of the frames' Laplacian, in grey levels of 0 to 255.

    The five-point Laplacian of the luma; blur takes it down, noise takes it up. It depends on the
    size in pixels: compare frames of one size.
    """
    luma = _luma(clip_THWC)
    middle = luma[:, 1:-1, 1:-1]
    sides = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return float(np.square(sides - 4 * middle).mean())


def flicker(clip_THWC: NDArray[np.uint8]) -> float:
    """Return the mean size of the second difference over time, in grey levels of 0 to 255.

    ``|x(t-1) - 2 x(t) + x(t+1)|`` of the luma: what changes evenly, as by a slow fade, has none;
    what jumps back and forth between frames has much. 0 for clips of fewer than three frames.
    """
    luma = _luma(clip_THWC)
    if len(luma) < 3:
        return 0.0
    return float(np.abs(luma[:-2] - 2 * luma[1:-1] + luma[2:]).mean())


def _luma(clip_THWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return clip_THWC.astype(np.float32) @ _LUMA
