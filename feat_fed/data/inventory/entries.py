"""What the inventory of a site says to those who use its clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.config import ClipConfig
from feat_fed.data.reading.clip import Box, Source
from feat_fed.errors import DataError

Progress = Callable[[int, int], None]
"""Called with how many files are done and how many there are."""

TOO_SHORT = "fewer frames than a clip needs"


@dataclass(frozen=True)
class ClipEntry:
    """One usable clip; ``patient`` is a keyed pseudonym (64 hexadecimal digits).

    ``field`` is what is kept of a frame, all of it where ``None``; ``overlays`` are blackened.
    ``clip_id`` is its key in the manifest.
    """

    source: Source = field(repr=False)
    sha256: str
    patient: str
    num_frames: int
    height_px: int
    width_px: int
    fps: float | None
    field: Box | None = None
    overlays: tuple[Box, ...] = ()
    clip_id: str = ""


@dataclass(frozen=True)
class Exclusion:
    """One clip that is not used; ``reason`` quotes nothing of it. ``path``: its first file."""

    path: Path = field(repr=False)
    reason: str
    clip_id: str = ""


@dataclass(frozen=True)
class Inventory:
    """What a scan found.

    Parameters
    ----------
    clips, waiting, excluded
        Usable now; usable once a person has approved them; not usable.
    skipped
        Files that are no video at all.
    looked
        Clips and single frames that were read by this scan, since they were new or changed.
    refused
        Files of patients who were erased; they are not opened.
    unmatched
        Clips whose file names no patient, nor does ``patient_pattern`` find one in the path.
    """

    clips: tuple[ClipEntry, ...]
    waiting: tuple[Exclusion, ...]
    excluded: tuple[Exclusion, ...]
    skipped: int
    looked: int = 0
    refused: int = 0
    unmatched: int = 0

    def require_clips(self) -> None:
        """Raise :class:`DataError` if nothing can be trained on, with what there is instead."""
        if self.clips:
            return
        found = [f"{len(self.waiting)} that a person must approve"] if self.waiting else []
        for reason, count in Counter(each.reason for each in self.excluded).most_common():
            found.append(f"{count} unusable: {reason}")
        if self.skipped:
            found.append(f"{self.skipped} files that are no video")
        mend = (
            "look at the waiting ones with `feat-fed data report` and let them in with "
            "`feat-fed data approve SITE.yaml --all`"
            if self.waiting
            else "put multi-frame DICOM or video files below data.paths, or see what "
            "`feat-fed data scan SITE.yaml --show-paths` says of those that are there"
        )
        raise DataError(
            f"no usable clip below data.paths (found {'; '.join(found) or 'nothing'}); {mend}"
        )


def window_frames(clips: ClipConfig) -> int:
    """Return the source frames that one clip spans: its first, its last and those between."""
    return (clips.frames - 1) * clips.stride_frames + 1
