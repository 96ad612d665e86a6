"""What a clip's pixels did over time, gathered in one pass with the memory of a few frames.

Every frame is looked at thinly (:class:`Pulse`), for motion and darkness. Whole pictures are
weighed only at moments that grow rarer (:class:`Schedule`, :class:`Evidence`), so that a long
clip costs little more than to decode it.

Legend: H and W height and width of a frame, h and w those of the evidence (a frame shrunk by a
whole number), y and x those of the thin grid.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from feat_fed.data.reading.clip import Box, Frame

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Luma = npt.NDArray[np.uint8]

DARK_BELOW = 16  # luma; video black, and the noise of a lossy codec around it

_MAX_PX = 1_300_000  # 1280 x 960 is weighed whole, 1920 x 1080 at half its size
_GRID_PX = 4  # every fourth row and column
_QUIET_LEVELS = 3  # what a codec's noise does to a pixel that stands still
_GLITCH_LEVELS = 8  # a change counts as no more: one broken frame is not a moving picture
_REPEAT_LEVELS = 0.02  # mean change below which a frame repeats the one before
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Schedule:
    """Which frames of a stream to keep, when nobody knows how many will come.

    Wanted are frames ``0, s, 2 s, ...``. When ``capacity`` of them have come, every other one is
    forgotten and ``s`` doubles: what is kept is always spread evenly over what was seen.
    """

    def __init__(self, capacity: int) -> None:
        self.stride_frames = 1
        self._capacity = capacity

    def wants(self, index: int) -> bool:
        """Tell whether a frame is in the series."""
        return index % self.stride_frames == 0

    def fills(self, index: int) -> bool:
        """Tell whether the series is full before ``index`` comes; then the stride has doubled."""
        if index < self._capacity * self.stride_frames:
            return False
        self.stride_frames *= 2
        return True


class Pulse:
    """Motion and darkness of every single frame, on a thin grid of pixels."""

    def __init__(self, height_px: int, width_px: int) -> None:
        rows, columns = len(range(0, height_px, _GRID_PX)), len(range(0, width_px, _GRID_PX))
        self.num_frames = 0
        self._before_yx: Floats = np.zeros((rows, columns), np.float32)
        self._change_yx: Floats = np.zeros((rows, columns), np.float32)
        self._dark_yx: Floats = np.zeros((rows, columns), np.float32)

    def add(self, frame: Frame) -> None:
        """Take the next frame, (H, W, 3)."""
        luma_yx = frame[::_GRID_PX, ::_GRID_PX] @ _LUMA
        if self.num_frames:
            self._change_yx += np.abs(luma_yx - self._before_yx)
        self._dark_yx += luma_yx < DARK_BELOW
        self._before_yx = luma_yx
        self.num_frames += 1

    def motion(self, field: Box) -> float:
        """Return the mean change of a pixel from a frame to the next, in grey levels of 255."""
        return float(self._inside(self._change_yx, field).mean()) / max(1, self.num_frames - 1)

    def dark_share(self, field: Box) -> float:
        """Return how much of the field, over all frames, is nearly black, 0 to 1."""
        return float(self._inside(self._dark_yx, field).mean()) / self.num_frames

    @staticmethod
    def _inside(values_yx: Floats, field: Box) -> Floats:
        rows = slice(field.top // _GRID_PX, -(-field.bottom // _GRID_PX))
        return values_yx[rows, field.left // _GRID_PX : -(-field.right // _GRID_PX)]


class Evidence:
    """What each pixel did over the weighed frames.

    ``shrunk_by`` source pixels make one of the evidence, along both axes. Frames that repeat
    the one before (a cine shown at a higher rate) are not weighed: they would make everything
    look still.
    """

    def __init__(self, height_px: int, width_px: int) -> None:
        self.shrunk_by = max(1, math.ceil(math.sqrt(height_px * width_px / _MAX_PX)))
        self._frames = self._steps = 0.0
        self._before_hw: Luma | None = None
        shape = (-(-height_px // self.shrunk_by), -(-width_px // self.shrunk_by))
        self._level_hw, self._change_hw, self._quiet_hw, self._slope_hw = (
            np.zeros(shape, np.float32) for _ in range(4)
        )

    def add(self, luma_hw: Luma) -> None:
        """Weigh a frame's luma, shrunk."""
        if self._before_hw is not None:
            step_hw = _apart(luma_hw, self._before_hw)
            if step_hw.mean() < _REPEAT_LEVELS:
                return
            self._change_hw += np.minimum(step_hw, _GLITCH_LEVELS)
            self._quiet_hw += step_hw <= _QUIET_LEVELS
            self._steps += 1
        self._level_hw += luma_hw
        self._slope_hw[:, :-1] += _apart(luma_hw[:, 1:], luma_hw[:, :-1])
        self._slope_hw[:-1] += _apart(luma_hw[1:], luma_hw[:-1])
        self._frames += 1
        self._before_hw = luma_hw

    def halve(self) -> None:
        """Let all that was weighed count half, as a stride that doubles asks for."""
        for values_hw in (self._level_hw, self._change_hw, self._quiet_hw, self._slope_hw):
            values_hw *= 0.5
        self._frames, self._steps = self._frames / 2, self._steps / 2

    @property
    def level_hw(self) -> Floats:
        """Mean luma, 0 to 255."""
        return self._level_hw / np.float32(max(self._frames, 1e-9))

    @property
    def change_hw(self) -> Floats:
        """Mean change from a weighed frame to the next, each step at most 8 grey levels."""
        return self._change_hw / np.float32(max(self._steps, 1e-9))

    @property
    def quiet_hw(self) -> Floats:
        """Share of the steps in which the pixel kept its level, but for a codec's noise."""
        return self._quiet_hw / np.float32(max(self._steps, 1e-9))

    @property
    def slope_hw(self) -> Floats:
        """Mean over the frames of the luma's slope, ``|dx| + |dy|``, in levels a pixel."""
        return self._slope_hw / np.float32(max(self._frames, 1e-9))


def luma(frame: Frame) -> Image.Image:
    """Return a frame, (H, W, 3), as luma (ITU-R BT.601)."""
    return Image.fromarray(frame).convert("L")


def _apart(one: Luma, other: Luma) -> Luma:
    return np.maximum(one, other) - np.minimum(one, other)
