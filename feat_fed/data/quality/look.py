"""What a clip shows, found out in one pass over its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feat_fed.config.site import RulesConfig
from feat_fed.data.quality.evidence import Evidence, Pulse, Schedule, luma
from feat_fed.data.quality.field import FieldFrom, find_field
from feat_fed.data.quality.fingerprint import fingerprint, thumbnail
from feat_fed.data.quality.overlays import find_overlays
from feat_fed.data.quality.sheet import Sheet, make_sheet
from feat_fed.data.reading.clip import Box, Frame
from feat_fed.errors import ClipError

QUALITY_VERSION = 1
"""Raised with every change that gives another :class:`Look` or another cleaned frame."""

_KEPT_FRAMES = 64


@dataclass(frozen=True)
class Look:
    """What a clip shows; nothing in it is text of the file.

    Parameters
    ----------
    num_frames
        As decoded, every one of them.
    dark_share
        How much of the field is nearly black, over all frames, 0 to 1.
    motion
        Mean change of the field's pixels from a frame to the next, in grey levels of 255.
    fingerprint
        256 bits in hexadecimal; see :mod:`feat_fed.data.quality.fingerprint`.
    field
        What the crop leaves of a frame.
    field_from
        Who told: a region of the header, the round field of an endoscope, what moves (where
        nothing does, what is not black), or nobody: it is the whole frame.
    overlays
        Boxes around what looks like text or marks inside the field, in pixels of the source.
    """

    num_frames: int
    height_px: int
    width_px: int
    dark_share: float
    motion: float
    fingerprint: str
    field: Box
    field_from: FieldFrom
    overlays: tuple[Box, ...]


def look_at(
    frames: Iterable[Frame], *, regions: tuple[Box, ...], rules: RulesConfig
) -> tuple[Look, Sheet]:
    """Look at all frames of a clip once, in memory that does not grow with their number.

    Parameters
    ----------
    frames
        (H, W, 3) each, of one size, as :func:`feat_fed.data.reading.reader.iter_frames` yields
        them.
    regions
        Of the header (``ClipInfo.regions``), if it has some.
    rules
        Without ``crop`` the field is the whole frame; ``overlays`` says how the sheet looks.

    Raises
    ------
    ClipError
        When there is no frame, or the iterator raises it.
    """
    scan: _Scan | None = None
    for frame in frames:
        scan = scan or _Scan(*frame.shape[:2])
        scan.add(frame)
    if scan is None:
        raise ClipError("no frames")
    return scan.result(regions, rules)


class _Scan:
    """The accumulators of one pass."""

    def __init__(self, height_px: int, width_px: int) -> None:
        self._height_px, self._width_px = height_px, width_px
        self._schedule = Schedule(_KEPT_FRAMES)
        self._pulse = Pulse(height_px, width_px)
        self._evidence = Evidence(height_px, width_px)
        self._thumbnails: list[npt.NDArray[np.float32]] = []

    def add(self, frame: Frame) -> None:
        index = self._pulse.num_frames
        self._pulse.add(frame)
        if self._schedule.fills(index):
            self._thumbnails = self._thumbnails[::2]
            self._evidence.halve()
        if not self._schedule.wants(index):
            return
        grey = luma(frame)
        self._thumbnails.append(thumbnail(grey))
        self._evidence.add(np.asarray(grey.reduce(self._evidence.shrunk_by)))
        if index & (index - 1) == 0:  # 0, 1, 2, 4, 8, ...: the last is in the second half
            self._shown = frame.copy()

    def result(self, regions: tuple[Box, ...], rules: RulesConfig) -> tuple[Look, Sheet]:
        found = find_field(self._evidence, regions)
        whole = Box(0, 0, self._width_px, self._height_px)
        field = self._in_source(found.box, whole) if rules.crop else whole
        marks = find_overlays(self._evidence, found.picture_hw)
        overlays = tuple(box for mark in marks if (box := self._in_source(mark, field)).area_px)
        look = Look(
            num_frames=self._pulse.num_frames,
            height_px=self._height_px,
            width_px=self._width_px,
            dark_share=self._pulse.dark_share(field),
            motion=self._pulse.motion(field),
            fingerprint=fingerprint(np.stack(self._thumbnails)),
            field=field,
            field_from=found.source if rules.crop else "whole",
            overlays=overlays,
        )
        masked = rules.overlays == "mask"
        return look, make_sheet(self._shown, field=field, overlays=overlays, masked=masked)

    def _in_source(self, box: Box, within: Box) -> Box:
        """Bring a box of the evidence to the source's pixels and cut it to another one there."""
        by = self._evidence.shrunk_by
        return Box(
            max(box.left * by, within.left),
            max(box.top * by, within.top),
            min(box.right * by, within.right),
            min(box.bottom * by, within.bottom),
        )
