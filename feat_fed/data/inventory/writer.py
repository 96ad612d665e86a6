"""What was seen becomes rows of the manifest, in batches."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from feat_fed.data.inventory.identity import keyed, pseudonym
from feat_fed.data.inventory.look import Role, Seen, SingleFrame
from feat_fed.data.inventory.manifest import FrameRow, Manifest
from feat_fed.data.inventory.records import ClipRecord, header_columns, look_columns
from feat_fed.data.inventory.sheets import drop_sheets, write_sheet
from feat_fed.data.reading.clip import Source

_BATCH_ROWS = 64
_BATCH_SEC = 1.0


@dataclass(frozen=True)
class Job:
    """A clip to look at.

    Parameters
    ----------
    clip_id, stamp
        Of the row that comes of it.
    relative
        Path of its first file below the folder that was configured.
    place
        In the walk: clips that are new in one scan are numbered in its order.
    files
        Keyed hash of each file of a series, beside ``source``.
    """

    role: Role
    clip_id: str
    stamp: str
    source: Source = field(repr=False)
    relative: Path = field(repr=False)
    size_bytes: int
    place: int
    files: tuple[str, ...] = ()


class Writer:
    """The manifest's rows in memory, and those that are not yet on the disk.

    Parameters
    ----------
    looked_by
        What new rows say of how they were looked at.
    pattern
        ``SiteDataConfig.patient_pattern``.
    """

    def __init__(self, manifest: Manifest, *, looked_by: str, pattern: str | None) -> None:
        self._manifest, self._looked_by, self._pattern = manifest, looked_by, pattern
        self.records, self.frames = manifest.records(), manifest.frames()
        self._refused = {row["patient"] for row in manifest.select("SELECT * FROM refused")}
        rows = manifest.select("SELECT file FROM refused_files")
        self.refused_files = {row["file"] for row in rows}
        self._first_number = 1 + max((each.number for each in self.records.values()), default=0)
        self._changed: dict[str, ClipRecord] = {}
        self._changed_frames: dict[str, FrameRow] = {}
        self._flushed_at = time.monotonic()

    def take(self, job: Job, result: Seen | SingleFrame | str) -> None:
        """Keep what came of a job; a text is why nothing did."""
        if isinstance(result, SingleFrame):
            series = keyed("series", result.series_key, key=self._manifest.key)
            self._keep_frame(FrameRow(job.clip_id, job.stamp, self._looked_by, series))
            self.forget([job.clip_id])
        else:
            seen = Seen(job.source, reason=result) if isinstance(result, str) else result
            self._take_clip(job, seen)
        changed = len(self._changed) + len(self._changed_frames)
        if changed >= _BATCH_ROWS or time.monotonic() - self._flushed_at > _BATCH_SEC:
            self.flush()

    def follow_pattern(self, clip_id: str, relative: Path) -> bool:
        """Give a clip whose patient its path tells the one that the path tells now.

        False where there is a pattern and the path does not match it.
        """
        record = self.records[clip_id]
        if record.in_header:
            return True
        patient = self._patient(None, relative, record.sha256 or clip_id)
        if patient != record.patient:
            self._keep_or_refuse(replace(record, patient=patient, twin=None))
        return not self._pattern or self._matched(relative) is not None

    def refusal_of(self, file: str, stamp: str) -> str:
        """Return what the list of refused files has for a file of a refused patient."""
        return keyed("refused", f"{file} {stamp}", key=self._manifest.key)

    def forget(self, clip_ids: Iterable[str]) -> None:
        """Drop clips, their sheets included."""
        if gone := [each for each in clip_ids if self.records.pop(each, None)]:
            self._delete("DELETE FROM clips WHERE clip_id = ?", gone)
            drop_sheets(self._manifest.store, gone)

    def forget_frames(self, files: Iterable[str]) -> None:
        """Drop single-frame instances."""
        if gone := [each for each in files if self.frames.pop(each, None)]:
            self._delete("DELETE FROM frames WHERE file = ?", gone)

    def flush(self) -> None:
        """Write what is not on the disk yet."""
        self._manifest.save(self._changed.values(), self._changed_frames.values())
        self._changed.clear()
        self._changed_frames.clear()
        self._flushed_at = time.monotonic()

    def _take_clip(self, job: Job, seen: Seen) -> None:
        places = {path: place for place, path in enumerate(seen.source)}
        for file, path in zip(job.files, job.source, strict=job.role == "series"):
            self._keep_frame(replace(self.frames[file], place=places.get(path, -1)))
        if job.role == "file":
            self.forget_frames([job.clip_id])
        drop_sheets(self._manifest.store, [job.clip_id])
        if self._keep_or_refuse(self._record(job, seen)) and seen.sheet:
            write_sheet(self._manifest.store, job.clip_id, seen.sheet)

    def _record(self, job: Job, seen: Seen) -> ClipRecord:
        info, key, old = seen.info, self._manifest.key, self.records.get(job.clip_id)
        stays = old is not None and old.sha256 == seen.sha256
        seen_before = (old.stamp, old.looked_by) if old else None
        in_header = info.patient_key if info else seen.patient_key
        study = info.study_key if info else seen.study_key
        return ClipRecord(
            clip_id=job.clip_id,
            number=old.number if old and stays else self._first_number + job.place,
            stamp=job.stamp,
            looked_by=self._looked_by,
            patient=self._patient(in_header, job.relative, seen.sha256 or job.clip_id),
            in_header=in_header is not None,
            study=keyed("study", study, key=key) if study else None,
            sha256=seen.sha256,
            unreadable=seen.reason,
            reason=seen.reason,
            attempts=1 + old.attempts if old and seen_before == (job.stamp, self._looked_by) else 1,
            **{
                **(header_columns(info) if info else {}),
                **(look_columns(seen.look) if seen.look else {}),
            },
        )

    def _patient(self, in_header: str | None, relative: Path, alone: str) -> str:
        """Apply the rule of ``SiteDataConfig.patient_pattern``.

        A path that the pattern does not match falls back to the rule without one; ``alone``
        stands for a file right in the folder. Equal texts are one patient wherever they come
        from, so that a folder may be named by a PatientID.
        """
        return pseudonym(in_header or self._from_path(relative) or alone, key=self._manifest.key)

    def _from_path(self, relative: Path) -> str | None:
        if matched := self._matched(relative):
            return matched
        return relative.parts[0] if len(relative.parts) > 1 else None

    def _matched(self, relative: Path) -> str | None:
        match = re.search(self._pattern, relative.as_posix()) if self._pattern else None
        return match[1] or None if match else None

    def _keep_or_refuse(self, record: ClipRecord) -> bool:
        """Keep a clip; of a refused patient's, keep only that its files are not to be opened.

        Contents that were known before, under another patient, may have latents: they are noted
        for :func:`.erase.left_behind`.
        """
        patient = keyed("refused", record.patient, key=self._manifest.key)
        if patient not in self._refused:
            self.records[record.clip_id] = self._changed[record.clip_id] = record
            return True
        files = [each for each in self.frames.values() if each.series == record.clip_id]
        stamps = [(each.file, each.stamp) for each in files] or [(record.clip_id, record.stamp)]
        refusals = [self.refusal_of(*each) for each in stamps]
        self._changed.pop(record.clip_id, None)
        self.forget([record.clip_id])
        self.forget_frames([each.file for each in files])
        with self._manifest.changing() as database:
            database.executemany(
                "INSERT OR REPLACE INTO refused_files VALUES (?, ?)",
                [(each, patient) for each in refusals],
            )
            database.execute(
                "INSERT OR IGNORE INTO contents "
                "SELECT DISTINCT sha256, ? FROM contents WHERE sha256 = ?",
                (patient, record.sha256),
            )
        self.refused_files |= set(refusals)
        return False

    def _delete(self, statement: str, keys: list[str]) -> None:
        self.flush()
        with self._manifest.changing() as database:
            database.executemany(statement, [(each,) for each in keys])

    def _keep_frame(self, frame: FrameRow) -> None:
        self.frames[frame.file] = self._changed_frames[frame.file] = frame
