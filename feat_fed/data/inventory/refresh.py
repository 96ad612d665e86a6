"""Bring the manifest up to what is on the disk now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from feat_fed.config import RulesConfig, SiteDataConfig
from feat_fed.data.inventory.again import worth_another_look
from feat_fed.data.inventory.entries import Progress
from feat_fed.data.inventory.files import FoundClip, find_clips
from feat_fed.data.inventory.identity import keyed
from feat_fed.data.inventory.look import Examine, examine
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.data.inventory.pool import Limits, Task, work_on
from feat_fed.data.inventory.sheets import drop_other_sheets
from feat_fed.data.inventory.writer import Job, Writer
from feat_fed.data.quality import QUALITY_VERSION
from feat_fed.data.reading.clip import Source
from feat_fed.data.reading.reader import READER_VERSION
from feat_fed.errors import DataError


@dataclass(frozen=True)
class Present:
    """What is on the disk: clips by id, in the order of the walk.

    ``skipped`` counts files that are no video, ``looked`` what was read just now,
    ``refused`` the clips and frames of patients who were erased, and ``unmatched`` the clips
    whose patient neither the file nor a pattern told.
    """

    sources: dict[str, Source]
    skipped: int
    looked: int
    refused: int
    unmatched: int


def looked_by(rules: RulesConfig) -> str:
    """Return all but the file that a look and its sheet depend on."""
    masked = rules.overlays == "mask"
    return f"reader {READER_VERSION} quality {QUALITY_VERSION} crop {rules.crop} mask {masked}"


class Refresh:
    """One pass over the disk.

    Parameters
    ----------
    rescan
        Read everything again, also what is unchanged.
    look, limits
        What a worker does with a clip, and what a file may take.
    """

    def __init__(
        self,
        manifest: Manifest,
        data: SiteDataConfig,
        *,
        progress: Progress | None = None,
        rescan: bool = False,
        look: Examine = examine,
        limits: Limits | None = None,
    ) -> None:
        self._manifest, self._data, self._progress = manifest, data, progress
        self._rescan, self._look, self._limits = rescan, look, limits or Limits()
        self._by = looked_by(data.rules)
        self._rows = Writer(manifest, looked_by=self._by, pattern=data.patient_pattern)
        self._keys: dict[str, tuple[str, str]] = {}
        self._done = self._total = 0

    def run(self) -> Present:
        """Read what is new or changed, forget what has gone, and say what there is.

        Raises
        ------
        DataError
            When a path does not exist, or the disk fails; it names no file that was found.
        """
        try:
            return self._run()
        except OSError as error:  # its text names the file
            raise DataError(
                f"a file below data.paths or in the store cannot be used: {error.strerror}"
            ) from None

    def _run(self) -> Present:
        found, skipped = find_clips(self._data.paths, known=self._is_known)
        files = [self._job(place, each) for place, each in enumerate(found)]
        jobs = [job for job in files if not self._is_refused(job)]
        there = {job.clip_id for job in jobs}
        self._rows.forget_frames(self._rows.frames.keys() - there)
        self._work([job for job in jobs if not self._is_current(job)])
        series = self._series(jobs)
        self._work([job for job in series.values() if not self._is_current_series(job)])
        self._rows.forget(self._rows.records.keys() - there - series.keys())
        unmatched = sum(
            not self._rows.follow_pattern(job.clip_id, job.relative)
            for job in (*jobs, *series.values())
            if job.clip_id in self._rows.records
        )
        self._rows.flush()
        drop_other_sheets(self._manifest.store, keep=self._rows.records.keys())
        refused = len(files) - len(jobs)
        return Present(self._sources(jobs, series), skipped, self._done, refused, unmatched)

    def _work(self, jobs: list[Job]) -> None:
        """Look at clips in the pool; whatever ends this, what came before is kept."""
        self._total += len(jobs)
        tasks = [
            Task(job, (job.source, job.role, self._data.rules), job.size_bytes) for job in jobs
        ]
        try:
            for task, result in work_on(
                tasks, self._look, workers=self._data.workers, limits=self._limits
            ):
                self._rows.take(task.key, result)
                self._done += 1
                if self._progress:
                    self._progress(self._done, self._total)
        finally:
            self._rows.flush()

    def _series(self, jobs: Iterable[Job]) -> dict[str, Job]:
        """Gather single-frame instances into a job for each series."""
        members: dict[str, list[Job]] = {}
        for job in jobs:
            if frame := self._rows.frames.get(job.clip_id):
                members.setdefault(frame.series, []).append(job)
        return {
            series: Job(
                role="series",
                clip_id=series,
                stamp=self._keyed_stamp(*sorted(job.stamp for job in each)),
                source=tuple(job.source[0] for job in each),
                relative=each[0].relative,
                size_bytes=sum(job.size_bytes for job in each),
                place=each[0].place,
                files=tuple(job.clip_id for job in each),
            )
            for series, each in members.items()
        }

    def _sources(self, jobs: Iterable[Job], series: dict[str, Job]) -> dict[str, Source]:
        sources: dict[str, Source] = {}
        for job in jobs:
            frame = self._rows.frames.get(job.clip_id)
            clip_id = frame.series if frame else job.clip_id
            if clip_id in self._rows.records and clip_id not in sources:
                sources[clip_id] = self._in_order(series[clip_id]) if frame else job.source
        return sources

    def _in_order(self, series: Job) -> Source:
        """Return the files of a series as its frames follow each other, without second copies."""
        places = {
            path: self._rows.frames[file].place
            for file, path in zip(series.files, series.source, strict=True)
        }
        shown = [path for path, place in places.items() if place is not None and place >= 0]
        return tuple(sorted(shown, key=lambda path: places[path] or 0))

    def _job(self, place: int, found: FoundClip) -> Job:
        clip_id, stamp = self._key_and_stamp(found)
        return Job("file", clip_id, stamp, found.source, found.relative, found.size_bytes, place)

    def _key_and_stamp(self, found: FoundClip) -> tuple[str, str]:
        if found.name not in self._keys:
            clip_id = keyed("clip", found.name, key=self._manifest.key)
            self._keys[found.name] = clip_id, self._keyed_stamp(clip_id, found.state)
        return self._keys[found.name]

    def _keyed_stamp(self, *parts: str) -> str:
        return keyed("stamp", "\n".join(parts), key=self._manifest.key)

    def _is_known(self, found: FoundClip) -> bool:
        clip_id, stamp = self._key_and_stamp(found)
        row = self._rows.records.get(clip_id) or self._rows.frames.get(clip_id)
        known = row is not None and row.stamp == stamp
        return known or self._rows.refusal_of(clip_id, stamp) in self._rows.refused_files

    def _is_refused(self, job: Job) -> bool:
        return self._rows.refusal_of(job.clip_id, job.stamp) in self._rows.refused_files

    def _is_current(self, job: Job) -> bool:
        record = self._rows.records.get(job.clip_id)
        row = record or self._rows.frames.get(job.clip_id)
        seen = (row.stamp, row.looked_by) if row else None
        again = self._rescan or (record is not None and worth_another_look(record))
        return seen == (job.stamp, self._by) and not again

    def _is_current_series(self, job: Job) -> bool:
        placed = all(self._rows.frames[file].place is not None for file in job.files)
        return placed and self._is_current(job)
