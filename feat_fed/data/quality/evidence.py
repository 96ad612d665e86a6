"""What a clip's pixels did over time, gathered in one pass with the memory of a few frames.

Every frame is looked at thinly (:class:`Pulse`), for motion and darkness. Whole pictures are
weighed only at moments that grow rarer (:class:`Schedule`, :class:`Evidence`), so that a long
clip costs little more than to decode it.

Legend: H and W height and width of a frame, h and w those of the evidence (a frame shrunk by a
whole number), y and x those of the thin grid.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from feat_fed.data.reading.clip import Box, Frame

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Luma = npt.NDArray[np.uint8]

DARK_BELOW = 16  # luma; video black, and the noise of a lossy codec around it

_GRID_PX = 4  # every fourth row and column
_QUIET_LEVELS = 3  # what a codec's noise does to a pixel that stands still
_GLITCH_LEVELS = 8  # a change counts as no more: one broken frame is not a moving picture
_COARSE_PX, _FAR_FRAMES = (16, 16), 8
_LOOSE_LEVELS, _LOOSE_RATIO = 12, 0.75  # change to the next frame; over that to the 8th
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


class Bonds:
    """Whether frames follow from those before them, or are pictures thrown together.

    A cine's frames are nearer to the next than to those farther away, seen coarsely enough to
    leave speckle and noise out. Cines of heart, lung and bowel at 10 frames a second and more
    change by 0.3 to 16 levels to the next, mostly 0.15 to 0.5 of the change to the eighth;
    pictures of different patients, scenes or phantoms by 17 to 30 levels, 0.8 to 1.05 of it.
    Pictures that resemble each other pass, and fast cines of 5 frames a second may not.
    """

    def __init__(self) -> None:
        self._ring: deque[Floats] = deque(maxlen=_FAR_FRAMES)
        self._near, self._far, self._num_near, self._num_far = 0.0, 0.0, 0, 0

    def add(self, frame: Frame) -> None:
        """Take the next frame, (H, W, 3)."""
        coarse_yx = np.asarray(luma(frame).resize(_COARSE_PX, Image.Resampling.BOX), np.float32)
        if self._ring:
            self._near += float(np.abs(coarse_yx - self._ring[-1]).mean())
            self._num_near += 1
        if len(self._ring) == _FAR_FRAMES:
            self._far += float(np.abs(coarse_yx - self._ring[0]).mean())
            self._num_far += 1
        self._ring.append(coarse_yx)

    @property
    def are_loose(self) -> bool:
        """Whether the frames are no cine; too few frames are given the benefit of the doubt."""
        if not self._num_far:
            return False
        near, far = self._near / self._num_near, self._far / self._num_far
        return near >= max(_LOOSE_LEVELS, _LOOSE_RATIO * far)


class Evidence:
    """What each pixel did over the weighed frames.

    Parameters
    ----------
    before_hw
        The frame before the first, where there was one: the step from it counts. Frames that
        repeat the one before (a cine shown at a higher rate) are not weighed: they would make
        everything look still.
    """

    def __init__(self, height_px: int, width_px: int, *, before_hw: Luma | None = None) -> None:
        self.num_frames = self._steps = 0.0
        self.last_hw = before_hw
        self._sums_4hw = np.zeros((4, height_px, width_px), np.float32)

    def add(self, luma_hw: Luma) -> None:
        """Weigh a frame's luma."""
        level_hw, change_hw, quiet_hw, slope_hw = self._sums_4hw
        if self.last_hw is not None:
            step_hw = _apart(luma_hw, self.last_hw)
            if step_hw.mean() < _REPEAT_LEVELS:
                return
            change_hw += np.minimum(step_hw, _GLITCH_LEVELS)
            quiet_hw += step_hw <= _QUIET_LEVELS
            self._steps += 1
        level_hw += luma_hw
        slope_hw[:, :-1] += _apart(luma_hw[:, 1:], luma_hw[:, :-1])
        slope_hw[:-1] += _apart(luma_hw[1:], luma_hw[:-1])
        self.num_frames += 1
        self.last_hw = luma_hw

    @classmethod
    def joined(cls, parts: Sequence[Evidence], *, weight: float = 1.0) -> Evidence:
        """Return the evidence of all parts, each frame of them counting so much."""
        whole = cls(*parts[0]._sums_4hw.shape[1:])
        for part in parts:
            whole._sums_4hw += part._sums_4hw
            whole.num_frames += weight * part.num_frames
            whole._steps += weight * part._steps
        whole._sums_4hw *= np.float32(weight)
        return whole

    def close(self) -> None:
        """Take half the memory from now on, to three digits; no frame may be added any more."""
        self._sums_4hw, self.last_hw = self._sums_4hw.astype(np.float16), None

    @property
    def level_hw(self) -> Floats:
        """Mean luma, 0 to 255."""
        return self._mean(0, self.num_frames)

    @property
    def change_hw(self) -> Floats:
        """Mean change from a weighed frame to the next, each step at most 8 grey levels."""
        return self._mean(1, self._steps)

    @property
    def quiet_hw(self) -> Floats:
        """Share of the steps in which the pixel kept its level, but for a codec's noise."""
        return self._mean(2, self._steps)

    @property
    def slope_hw(self) -> Floats:
        """Mean over the frames of the luma's slope, ``|dx| + |dy|``, in levels a pixel."""
        return self._mean(3, self.num_frames)

    def _mean(self, row: int, count: float) -> Floats:
        sums_hw = self._sums_4hw[row].astype(np.float32)
        return np.asarray(sums_hw / np.float32(max(count, 1e-9)), np.float32)


def luma(frame: Frame) -> Image.Image:
    """Return a frame, (H, W, 3), as luma (ITU-R BT.601)."""
    return Image.fromarray(frame).convert("L")


def _apart(one: Luma, other: Luma) -> Luma:
    return np.maximum(one, other) - np.minimum(one, other)
