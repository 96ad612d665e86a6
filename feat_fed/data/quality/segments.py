"""Evidence of a clip's segments, so that what is shown for a part of the clip is found there.

Over the whole of a clip, words that are shown for a tenth of it fade into the picture. So each
segment is weighed on its own, and the clip's evidence is the sum of theirs. Nobody knows how long
the clip will be: when the schedule forgets every other frame, neighbours become one.

Legend: H and W height and width of the source, h and w those of the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

from feat_fed.data.quality.evidence import Evidence, Luma

KEPT_FRAMES = 128
"""Of these, or at least half as many, a long clip is judged."""

_MAX_PX = 1_300_000  # 1280 x 960 is weighed whole, 1920 x 1080 at half its size
_SEGMENT_FRAMES = 8  # of those kept: 8 to 16 segments
_MIN_FRAMES = 6  # that are no repeats: on fewer everything looks still


class Segments:
    """The evidence of some consecutive stretches of equal length, and of all together.

    ``shrunk_by`` source pixels make one of the evidence, along both axes.
    """

    def __init__(self, height_px: int, width_px: int) -> None:
        self.shrunk_by = max(1, math.ceil(math.sqrt(height_px * width_px / _MAX_PX)))
        self._shape = (-(-height_px // self.shrunk_by), -(-width_px // self.shrunk_by))
        self._closed: list[Evidence] = []
        self._open, self._frames = Evidence(*self._shape), 0

    def add(self, grey: Image.Image) -> None:
        """Weigh a kept frame's luma."""
        if self._frames == _SEGMENT_FRAMES:
            self._close()
        self._open.add(np.asarray(grey.reduce(self.shrunk_by)))
        self._frames += 1

    def halve(self) -> None:
        """Make one segment of two, as a stride that doubles asks for; called when all are full."""
        last_hw = self._close()
        pairs = zip(self._closed[::2], self._closed[1::2], strict=True)
        self._closed = [Evidence.joined(pair, weight=0.5) for pair in pairs]
        for each in self._closed:
            each.close()
        self._open = Evidence(*self._shape, before_hw=last_hw)

    def whole(self) -> Evidence:
        """Return the evidence of the clip."""
        return Evidence.joined([*self._closed, self._open])

    def parts(self) -> Iterator[Evidence]:
        """Yield the evidence of overlapping parts, two segments each.

        Those in which too little changes to tell what stands still are left out, and so is a
        part that is the whole.
        """
        segments = [*self._closed, self._open]
        for pair in pairwise(segments) if len(segments) > 2 else ():
            part = Evidence.joined(pair)
            if part.num_frames >= _MIN_FRAMES:
                yield part

    def _close(self) -> Luma | None:
        last_hw = self._open.last_hw
        self._open.close()
        self._closed.append(self._open)
        self._open, self._frames = Evidence(*self._shape, before_hw=last_hw), 0
        return last_hw
