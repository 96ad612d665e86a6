"""What a clip shows, found out in one pass over its frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feat_fed.config.site import RulesConfig
from feat_fed.data.quality.evidence import Bonds, Pulse, Schedule, luma
from feat_fed.data.quality.field import FieldFrom, find_field
from feat_fed.data.quality.fingerprint import fingerprint, thumbnail
from feat_fed.data.quality.overlays import find_overlays
from feat_fed.data.quality.segments import KEPT_FRAMES, Segments
from feat_fed.data.quality.shapes import merged
from feat_fed.data.quality.sheet import Sheet, Stills
from feat_fed.data.reading.clip import Box, Frame
from feat_fed.errors import ClipError

QUALITY_VERSION = 2
"""Raised with every change that gives another :class:`Look` or another cleaned frame."""

SINGLE_PICTURES = "single pictures, not a cine"


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
    frames: Iterable[Frame],
    *,
    regions: tuple[Box, ...],
    rules: RulesConfig,
    must_follow: bool = False,
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
    must_follow
        Whether frames that do not follow from each other are refused: those of single pictures,
        which nobody has promised to be a cine.

    Raises
    ------
    ClipError
        When there is no frame, they do not follow, or the iterator raises it.
    """
    scan: _Scan | None = None
    bonds = Bonds()
    for frame in frames:
        scan = scan or _Scan(*frame.shape[:2])
        scan.add(frame)
        if must_follow:
            bonds.add(frame)
    if scan is None:
        raise ClipError("no frames")
    if bonds.are_loose:
        raise ClipError(SINGLE_PICTURES)
    return scan.result(regions, rules)


class _Scan:
    """The accumulators of one pass."""

    def __init__(self, height_px: int, width_px: int) -> None:
        self._height_px, self._width_px = height_px, width_px
        self._schedule = Schedule(KEPT_FRAMES)
        self._pulse = Pulse(height_px, width_px)
        self._segments = Segments(height_px, width_px)
        self._stills = Stills(width_px)
        self._thumbnails: list[npt.NDArray[np.float32]] = []

    def add(self, frame: Frame) -> None:
        index = self._pulse.num_frames
        self._pulse.add(frame)
        if self._schedule.fills(index):
            self._thumbnails = self._thumbnails[::2]
            self._segments.halve()
        if not self._schedule.wants(index):
            return
        grey = luma(frame)
        self._thumbnails.append(thumbnail(grey))
        self._segments.add(grey)
        self._stills.add(frame, index)

    def result(self, regions: tuple[Box, ...], rules: RulesConfig) -> tuple[Look, Sheet]:
        whole_evidence = self._segments.whole()
        found = find_field(whole_evidence, regions, shrunk_by=self._segments.shrunk_by)
        whole = Box(0, 0, self._width_px, self._height_px)
        field = self._in_source(found.box, whole) if rules.crop else whole
        marks = [*find_overlays(whole_evidence, found.picture_hw)]
        for part in self._segments.parts():
            marks += find_overlays(part, found.picture_hw, is_part=True)
        boxes = (self._in_source(mark, field) for mark in marks)
        overlays = merged([box for box in boxes if box.area_px])
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
        return look, self._stills.sheet(field=field, overlays=overlays, masked=masked)

    def _in_source(self, box: Box, within: Box) -> Box:
        """Bring a box of the evidence to the source's pixels and cut it to another one there."""
        by = self._segments.shrunk_by
        return Box(
            max(box.left * by, within.left),
            max(box.top * by, within.top),
            min(box.right * by, within.right),
            min(box.bottom * by, within.bottom),
        )
