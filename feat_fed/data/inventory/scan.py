"""The inventory of a site: which files are clips of which patient, and why others are not.

Only what is new or changed is read, in processes that may die (:mod:`.pool`), and each batch of
rows is written as it comes (:mod:`.writer`), so that a scan that ends early, however it ends,
goes on where it was.
"""

from __future__ import annotations

import time

from feat_fed.config import ClipConfig, RulesConfig, SiteDataConfig
from feat_fed.data.inventory.entries import (
    TOO_SHORT,
    ClipEntry,
    Exclusion,
    Inventory,
    Progress,
    window_frames,
)
from feat_fed.data.inventory.look import Examine, examine
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.pool import Limits
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.inventory.refresh import Refresh
from feat_fed.data.inventory.settle import settle
from feat_fed.data.reading.clip import Source

__all__ = [
    "TOO_SHORT",
    "ClipEntry",
    "Exclusion",
    "Inventory",
    "Progress",
    "entry_of",
    "scan",
    "scanned_at",
    "window_frames",
]

_SCANNED_AT = "scanned_at"


def scan(
    data: SiteDataConfig,
    *,
    manifest: Manifest,
    clips: ClipConfig | None = None,
    progress: Progress | None = None,
    rescan: bool = False,
    look: Examine = examine,
    limits: Limits | None = None,
) -> Inventory:
    """Look at what is new or changed below ``data.paths``; a bad file costs an exclusion.

    Parameters
    ----------
    manifest
        Of the site's store, open for this process alone.
    clips
        Of a study: a clip must hold ``(frames - 1) * stride_frames + 1`` frames, beside the
        site's own ``rules.min_frames``.
    rescan
        Read everything again, also what is unchanged and what once took too long.
    look, limits
        What a worker does with a file, and what a file may take.

    Raises
    ------
    DataError
        When a path does not exist, or the store cannot be used.
    """
    present = Refresh(
        manifest, data, progress=progress, rescan=rescan, look=look, limits=limits
    ).run()
    records = settle(manifest, data.rules)
    with manifest.changing() as database:
        database.execute(
            "INSERT OR REPLACE INTO facts VALUES (?, ?)", (_SCANNED_AT, f"{time.time():.0f}")
        )
    usable: list[ClipEntry] = []
    waiting: list[Exclusion] = []
    excluded: list[Exclusion] = []
    for clip_id, source in present.sources.items():
        record = records[clip_id]
        if record.outcome == "excluded":
            excluded.append(Exclusion(source[0], record.reason, clip_id))
        elif clips and (record.num_frames or 0) < window_frames(clips):
            excluded.append(Exclusion(source[0], TOO_SHORT, clip_id))
        elif record.outcome == "review":
            waiting.append(Exclusion(source[0], record.reason, clip_id))
        else:
            usable.append(entry_of(record, source, data.rules))
    return Inventory(
        clips=tuple(usable),
        waiting=tuple(waiting),
        excluded=tuple(excluded),
        skipped=present.skipped,
        looked=present.looked,
        refused=present.refused,
        unmatched=present.unmatched,
    )


def scanned_at(manifest: Manifest) -> float | None:
    """Return the Unix time of the last scan; None if there was none that left it."""
    rows = manifest.select("SELECT value FROM facts WHERE name = ?", _SCANNED_AT)
    return float(rows[0]["value"]) if rows else None


def entry_of(record: ClipRecord, source: Source, rules: RulesConfig) -> ClipEntry:
    """Return a usable record as a clip; ``source`` may be empty where no file is opened."""
    return ClipEntry(
        source=source,
        sha256=record.sha256 or "",
        patient=record.patient,
        num_frames=record.num_frames or 0,
        height_px=record.height_px or 0,
        width_px=record.width_px or 0,
        fps=record.fps,
        field=None if record.field_from == "whole" else record.field,
        overlays=record.overlays if rules.overlays == "mask" else (),
        clip_id=record.clip_id,
    )
