"""Whose the clips of a folder are; for DICOM as a site's own scan finds it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.config.site import PATIENT_IN_NAME
from feat_fed.data.inventory.files import FoundClip, find_clips
from feat_fed.data.inventory.records import known_modality
from feat_fed.data.reading.clip import Source, contained
from feat_fed.data.reading.reader import is_dicom
from feat_fed.errors import ClipError, ConfigError, DataError

NO_LABEL = "none"
VIDEO = "video"
_COLUMNS = ("path", "patient", "label")
_LAST_TAG = 0x0020000D  # StudyInstanceUID; tags ascend, PatientID and Modality are below


@dataclass(frozen=True)
class PooledClip:
    """A file, or the pictures of a folder, before anybody has looked at its frames."""

    source: Source = field(repr=False)
    label: str
    modality: str
    """One of DICOM's defined terms, "unknown", or :data:`VIDEO`."""


@dataclass(frozen=True)
class Patient:
    """All clips of a patient; label and modality are those of most of them."""

    key: str = field(repr=False)
    clips: tuple[PooledClip, ...]

    @property
    def label(self) -> str:
        """Of most clips, the first by name where several are."""
        return _most(each.label for each in self.clips)

    @property
    def modality(self) -> str:
        """Of most clips, the first by name where several are."""
        return _most(each.modality for each in self.clips)


def find_patients(
    paths: Sequence[Path], *, pattern: str | None = None, manifest: Path | None = None
) -> tuple[Patient, ...]:
    """Return the patients below folders, in a stable order, with all of their clips.

    A DICOM file's patient is the one in its header. Any other's is what the manifest says, or
    what ``pattern`` finds in its path below the folder, or the folder below the top folder, or
    :data:`PATIENT_IN_NAME` in the path, or the file is a patient of its own. A label is the
    manifest's, or else the top folder's name.

    Raises
    ------
    ConfigError
        If the manifest cannot be read.
    DataError
        If a folder does not exist, or the manifest lists a file that is no clip below it.
    """
    clips: dict[str, list[PooledClip]] = {}
    found = [(root, each) for root in paths for each in find_clips([root])[0]]
    rows = None if manifest is None else _listed(manifest, found)
    for _, each in found:
        row = {} if rows is None else rows.get(each.source[0].resolve())
        if row is None:
            continue
        in_header, modality = _header(each.source[0])
        patient = in_header or row.get("patient") or _from_path(each.relative, pattern)
        label = row.get("label") or (each.relative.parts[0] if _is_deep(each.relative) else "")
        clip = PooledClip(each.source, label or NO_LABEL, modality or VIDEO)
        clips.setdefault(patient, []).append(clip)
    return tuple(Patient(key, tuple(clips[key])) for key in sorted(clips))


def _header(path: Path) -> tuple[str | None, str | None]:
    """Return patient and modality of a DICOM file; of a damaged one nothing, as of a video."""
    try:
        if not is_dicom(path):
            return None, None
        from feat_fed.data.reading import header, part10

        beginning = part10.beginning(path, last_tag=_LAST_TAG)
        with contained(part10.UNREADABLE):
            return header.patient(beginning)[0], known_modality(header.text(beginning, "Modality"))
    except ClipError:  # the site's own scan will exclude it, with the reason
        return None, None


def _from_path(relative: Path, pattern: str | None) -> str:
    name = relative.as_posix()
    if pattern and (match := re.search(pattern, name)) and match[1]:
        return match[1]
    if len(relative.parts) > 2:
        return "/".join(relative.parts[:2])
    match = re.search(PATIENT_IN_NAME, name)
    return match[1] if match else name


def _is_deep(relative: Path) -> bool:
    return len(relative.parts) > 1


def _listed(
    manifest: Path, found: Iterable[tuple[Path, FoundClip]]
) -> dict[Path, Mapping[str, str]]:
    """Return the manifest's rows by file."""
    roots, there = set[Path](), set[Path]()
    for root, each in found:
        roots.add(root)
        there.add(each.source[0].resolve())
    rows: dict[Path, Mapping[str, str]] = {}
    for number, row in enumerate(_rows(manifest), start=2):
        files = {(root / row["path"]).resolve() for root in roots} & there
        if not files:
            raise DataError(
                f"{manifest}, line {number}: {row['path']!r} is no clip below the data's folder; "
                "correct the path (it counts from there), or leave the line out"
            )
        rows |= dict.fromkeys(files, row)
    return rows


def _rows(manifest: Path) -> list[dict[str, str]]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            rows = [{key: (row[key] or "").strip() for key in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{manifest} cannot be read: {error}") from error
    if "path" not in columns or not set(columns) <= set(_COLUMNS):
        raise ConfigError(
            f"{manifest}: its first line names the columns {', '.join(columns) or 'nothing'}; "
            f"write {','.join(_COLUMNS)} (patient or label may be left out)"
        )
    return rows


def _most(words: Iterable[str]) -> str:
    counts = Counter(words)
    return min(counts, key=lambda word: (-counts[word], word))
