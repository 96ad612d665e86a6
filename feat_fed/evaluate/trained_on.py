"""Whether a model has seen the videos that it is to be measured by, as far as can be known here.

A site's store knows the contents and the patients it trained on; it is on the machine of a
simulation, of a demonstration or of the hospital itself. Elsewhere somebody may give a list of
contents. What is found is identical files and patients of the same identifier: a copy that was
encoded anew, or cut, is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feat_fed.data.inventory.identity import pseudonym
from feat_fed.data.inventory.manifest import FILE, Manifest
from feat_fed.errors import DataError
from feat_fed.evaluate.benchmarks.layouts import readable_clips
from feat_fed.evaluate.clips import FileClips

_SHA256 = re.compile(r"([0-9a-f]{64})(?:\s.*)?")
_SHOWN = 3


@dataclass(frozen=True)
class _Patients:
    """Pseudonyms of a store, and the key that makes them."""

    key: bytes = field(repr=False)
    pseudonyms: frozenset[str]


@dataclass(frozen=True)
class TrainedOn:
    """What is known of the videos that a model was trained on."""

    sha256s: frozenset[str] = frozenset()
    stores: tuple[_Patients, ...] = ()

    def overlap(self, clips: FileClips) -> list[int]:
        """Return which videos were trained on, or are of a patient who was.

        Raises
        ------
        DataError
            When a file cannot be read.
        """
        if not self.sha256s and not self.stores:
            return []
        return [
            index
            for index, sha256 in enumerate(clips.sha256s)
            if sha256 in self.sha256s or self._knows(clips.patient(index) if self.stores else "")
        ]

    def _knows(self, patient: str) -> bool:
        return bool(patient) and any(
            pseudonym(patient.strip(), key=each.key) in each.pseudonyms for each in self.stores
        )


def read_trained_on(paths: Iterable[Path], *, heldout_fraction: float | None = None) -> TrainedOn:
    """Gather what was trained on from sites' stores, folders of videos and lists.

    Parameters
    ----------
    paths
        A site's store; or a folder of videos; or a text file of SHA-256, one a line, as
        ``sha256sum`` writes them.
    heldout_fraction
        Of the study: only its split counts in a store, every split there was if None. Patients
        whom the store held out were not trained on; all others were.

    Raises
    ------
    DataError
        When a path is none of these, or cannot be read.
    """
    sha256s: set[str] = set()
    stores: list[_Patients] = []
    for path in paths:
        if (path / FILE).is_file():
            contents, patients = _of_store(path, heldout_fraction)
            sha256s |= contents
            stores.append(patients)
        elif path.is_dir():
            found = readable_clips(path)
            if not found:
                raise DataError(
                    f"{path} is no site's store (it has no {FILE}) and holds no video; give what "
                    "was trained on"
                )
            clips = FileClips(str(path), [each.source for each in found], [e.name for e in found])
            sha256s |= set(clips.sha256s)
        else:
            sha256s |= _of_list(path)
    return TrainedOn(frozenset(sha256s), tuple(stores))


def refuse_trained_on(clips: FileClips, known: TrainedOn, *, allow: bool = False) -> FileClips:
    """Return the videos unless some were trained on; with ``allow``, their name says how many.

    Raises
    ------
    DataError
        When one was.
    """
    found = known.overlap(clips)
    if not found:
        return clips
    if allow:
        return clips.renamed(f"{clips.name} (trained on: {len(found)} of {len(clips)})")
    raise DataError(
        f"{len(found)} of {len(clips)} videos (benchmark {clips.name}) were trained on, or are of "
        f"patients who were: {_some([clips.label(index) for index in found])}. A number from them "
        "says how well the model remembers: measure on others, or say --even-trained-on (as the "
        "published tables do), and the numbers will say so too"
    )


def _of_store(store: Path, heldout_fraction: float | None) -> tuple[set[str], _Patients]:
    with Manifest(store, alone=None) as manifest:
        contents = manifest.select("SELECT sha256, patient FROM contents")
        sides = manifest.select("SELECT fraction, patient, side FROM sides")
        key = manifest.key
    if heldout_fraction is not None:
        sides = [each for each in sides if each["fraction"] == repr(heldout_fraction)]
    trained = {each["patient"] for each in sides if each["side"] == "train"}
    heldout = {each["patient"] for each in sides} - trained
    rows = [each for each in contents if each["patient"] not in heldout]
    patients = frozenset(each["patient"] for each in rows)
    return {each["sha256"] for each in rows}, _Patients(key, patients)


def _of_list(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    found = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _SHA256.fullmatch(line.strip().lower())
        if match is None:
            raise DataError(
                f"{path}, line {number}, is no SHA-256 of 64 hexadecimal digits; write one a line, "
                "as `sha256sum` does"
            )
        found.add(match[1])
    if not found:
        raise DataError(f"{path} names no SHA-256; write one a line, as `sha256sum` does")
    return found


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
