"""Hospitals out of one folder, to try a federation on one's own clips."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from feat_fed.config import RulesConfig, SiteDataConfig
from feat_fed.config.site import PATIENT_IN_NAME
from feat_fed.data.inventory.files import find_clips, may_be_clip
from feat_fed.data.reading.reader import is_dicom, probe
from feat_fed.errors import ClipError, DataError

RESEARCHERS_RULES = RulesConfig(review="waived")
"""Nobody approves clips: machine and clips are the researcher's own. Text is still masked."""

_HOW = (
    "give every hospital a sub-folder with its clips, or put the clips of at least two patients "
    "into one folder (pat1_..., pat2_... in the names tell patients apart)"
)


def hospitals_from_folder(folder: Path, *, maximum: int = 4) -> dict[str, SiteDataConfig]:
    """Take a sub-folder for a hospital, or deal the patients of a flat folder out.

    In a flat folder a DICOM file's patient is the one in its header, any other file's is
    :data:`PATIENT_IN_NAME` in its name, or else the file is a patient of its own. Patients,
    those with most clips first, are dealt round-robin to as many hospitals, up to ``maximum``,
    as can have two patients each; two or three patients still make two hospitals.

    Returns
    -------
    dict
        Site names, in order, and where each one's data lie.

    Raises
    ------
    DataError
        When that gives fewer than two hospitals, two sub-folders come to the same site name, or
        clips lie beside the sub-folders.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; {_HOW}")
    subfolders = [each for each in sorted(folder.iterdir()) if each.is_dir() and _has_clips(each)]
    loose = [each for each in sorted(folder.iterdir()) if may_be_clip(each)]
    if subfolders and loose:
        raise DataError(
            f"{folder} has {len(loose)} clips beside {len(subfolders)} folders of clips, so it is "
            f"unclear whose they are: move them; {_HOW}"
        )
    hospitals = _named(subfolders) if subfolders else _dealt(_by_patient(loose), maximum=maximum)
    if len(hospitals) < 2:
        raise DataError(f"{folder} makes {len(hospitals)} hospitals, a study needs two: {_HOW}")
    return hospitals


def _has_clips(folder: Path) -> bool:
    return not folder.name.startswith(".") and bool(find_clips([folder])[0])


def _named(subfolders: list[Path]) -> dict[str, SiteDataConfig]:
    hospitals: dict[str, SiteDataConfig] = {}
    origin: dict[str, Path] = {}
    for folder in subfolders:
        name = re.sub(r"[^a-z0-9_-]+", "-", folder.name.lower()).strip("-_")[:63]
        if not name:
            raise DataError(
                f"{folder}: no site name can be made of this; use letters a-z or digits"
            )
        if name in origin:
            raise DataError(
                f"{origin[name]} and {folder} would both be the site {name!r}; rename one"
            )
        origin[name] = folder
        hospitals[name] = SiteDataConfig(paths=(folder,), rules=RESEARCHERS_RULES)
    return hospitals


def _by_patient(files: list[Path]) -> dict[str, list[Path]]:
    patients: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files:
        patients[_guess_patient(path)].append(path)
    return patients


def _guess_patient(path: Path) -> str:
    try:
        in_header = probe(path).patient_key if is_dicom(path) else None
    except ClipError:  # the site's own scan will exclude it, with the reason
        in_header = None
    match = re.search(PATIENT_IN_NAME, path.name)
    return in_header or (match[1] if match else path.name)


def _dealt(patients: Mapping[str, list[Path]], *, maximum: int) -> dict[str, SiteDataConfig]:
    count = min(maximum, max(2, len(patients) // 2), len(patients))
    ordered = sorted(patients, key=lambda patient: (-len(patients[patient]), patient))
    hospitals = {}
    for index in range(count):
        paths = [path for patient in ordered[index::count] for path in patients[patient]]
        hospitals[f"hospital-{index + 1}"] = SiteDataConfig(
            paths=tuple(paths), patient_pattern=PATIENT_IN_NAME, rules=RESEARCHERS_RULES
        )
    return hospitals
