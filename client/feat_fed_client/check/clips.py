"""What a site's manifest knows of its clips, read without looking at any file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.data import ClipEntry, Manifest, window_frames
from feat_fed.data.inventory.manifest import FILE
from feat_fed.data.inventory.scan import entry_of, scanned_at
from feat_fed.data.inventory.split import Side, sides_of


@dataclass(frozen=True)
class KnownClips:
    """Clips as the last scan left them; their files are not named."""

    usable: tuple[ClipEntry, ...]
    """Of them those that are long enough for the study."""
    waiting: int
    """For a person's approval."""
    excluded: int
    too_short: int
    """For the study, and usable otherwise."""
    reasons: tuple[str, ...]
    """Why clips are excluded, most frequent first; phrases of ours."""
    scanned_at: float | None
    """Unix time."""
    sides: Mapping[str, Side]
    """Of the usable clips' patients in the study's split."""
    key: bytes
    """Under which clips are named in the manifest."""

    @property
    def num_training(self) -> int:
        """Clips whose patients are not held out."""
        return sum(self.sides.get(each.patient) != "heldout" for each in self.usable)

    @property
    def num_training_patients(self) -> int:
        """Patients who are not held out."""
        return sum(each != "heldout" for each in self.sides.values())


def read_known_clips(site: SiteConfig, study: StudyConfig | None) -> KnownClips | None:
    """Read the manifest; None where there is none yet.

    Raises
    ------
    DataError
        If it cannot be used.
    """
    if not (site.store / FILE).exists():
        return None
    shortest = window_frames(study.clips) if study else 0
    with Manifest(site.store, alone=None) as manifest:
        records = manifest.records().values()
        fit = [each for each in records if each.outcome == "usable"]
        long = [each for each in fit if (each.num_frames or 0) >= shortest]
        usable = tuple(entry_of(each, (), site.data.rules) for each in long)
        excluded = [each.reason for each in records if each.outcome == "excluded"]
        return KnownClips(
            usable=usable,
            waiting=sum(each.outcome == "review" for each in records),
            excluded=len(excluded),
            too_short=len(fit) - len(long),
            reasons=tuple(reason for reason, _ in Counter(excluded).most_common()),
            scanned_at=scanned_at(manifest),
            sides=sides_of(usable, study.clips, manifest) if study else {},
            key=manifest.key,
        )
