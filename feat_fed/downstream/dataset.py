"""Folders of clips with labels.

Two forms are read. In PolypDiag's (Endo-FM, arXiv 2306.16741), clips lie in ``videos/`` and
lists of ``name,label`` lines, ``train`` and ``val`` with ``.csv`` or ``.txt``, lie in ``splits/``
or beside it; a ``test`` list goes before ``val``. In the other, clips lie in a folder a class:
below ``train/`` and ``test/`` (or ``val/``), or without a split, which is then made by patient.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path

from feat_fed.data.inventory.files import find_clips
from feat_fed.data.reading.clip import Source
from feat_fed.downstream.labelled import LabelledClips, PatientOf, named, refuse_shared
from feat_fed.downstream.lists import LISTS, ListedClip, find_list, read_list
from feat_fed.errors import DataError
from feat_fed.evaluate.clips import FileClips


def read_split(
    folder: Path, patient_of: PatientOf, *, test_share: float, seed: int
) -> tuple[LabelledClips, LabelledClips]:
    """Read clips to train on and clips to test on.

    Raises
    ------
    DataError
        When a folder, list or clip is missing, a class has clips on one side only, or a patient
        or a file is on both.
    """
    if find_list(folder, "train") is not None:
        test_name = next((name for name in ("test", "val") if find_list(folder, name)), None)
        if test_name is None:
            raise DataError(
                f"{folder} has a list of training clips and none to test on: add splits/val.csv, "
                "with a line `name,label` a clip"
            )
        train, test = (_of_list(folder, name, patient_of) for name in ("train", test_name))
    elif (folder / "train").is_dir():
        test_name = next((name for name in ("test", "val") if (folder / name).is_dir()), None)
        if test_name is None:
            raise DataError(f"{folder} has the folder train and neither test nor val; add one")
        train, test = (_of_classes(folder / name, patient_of) for name in ("train", test_name))
    else:
        everything = _of_classes(folder, patient_of)
        train, test = _split(everything, test_share=test_share, seed=seed)
    _check_sides(train, test)
    return train, test


def read_labelled(folder: Path, patient_of: PatientOf) -> LabelledClips:
    """Read clips of known classes that need no split, such as generated ones.

    Raises
    ------
    DataError
        As :func:`read_split` does.
    """
    if find_list(folder, "train") is not None:
        return _of_list(folder, "train", patient_of)
    return _of_classes(folder / "train" if (folder / "train").is_dir() else folder, patient_of)


def read_unlabelled(folder: Path, *, at_most: int) -> FileClips:
    """Find the first ``at_most`` clips of a folder in the order of their names, folders deep.

    Raises
    ------
    DataError
        When there is none.
    """
    found = sorted(_found(folder), key=lambda each: each[1])[:at_most]
    if not found:
        raise DataError(f"{folder} has no clips; name the folder of generated clips")
    return FileClips(str(folder), [each for each, _ in found], [label for _, label in found])


def _check_sides(train: LabelledClips, test: LabelledClips) -> None:
    for side, other, do in ((train, test, "test on"), (test, train, "train on")):
        if missing := [name for name in side.counts() if name not in other.counts()]:
            raise DataError(
                f"{side.clips.name}: there are clips of the class {named(missing)} and none to "
                f"{do}; correct the labels or add clips"
            )
    if len(train.counts()) < 2:
        raise DataError(
            f"{train.clips.name} has clips of the one class {named(list(train.counts()))}; "
            "a classifier needs two"
        )
    if both := sorted(_known_patients(train) & _known_patients(test)):
        raise DataError(
            f"{train.clips.name}: {named(both)} would be trained and tested on; move each "
            "patient's clips to one side, or say with --patient-pattern what names a patient"
        )
    refuse_shared(train.clips, test.clips)


def _known_patients(clips: LabelledClips) -> set[str]:
    """Return those that something tells of."""
    own = (clips.clips.label(index) for index in range(len(clips)))
    return {patient for patient, label in zip(clips.patients, own, strict=True) if patient != label}


def _of_list(folder: Path, name: str, patient_of: PatientOf) -> LabelledClips:
    path = find_list(folder, name)
    assert path is not None
    listed = read_list(path)
    below = folder / "videos" if (folder / "videos").is_dir() else folder
    sources = [_listed_source(path, each, below) for each in listed]
    labels = [each.name for each in listed]
    return LabelledClips(
        FileClips(str(path), sources, labels),
        tuple(each.label for each in listed),
        tuple(map(patient_of, sources, labels)),
    )


def _listed_source(path: Path, listed: ListedClip, below: Path) -> Source:
    """Return a list's clip: a file, or the pictures of a folder."""
    clip = below / listed.name
    if clip.is_file():
        return (clip,)
    found = find_clips([clip])[0] if clip.is_dir() else []
    if len(found) != 1:
        what = f"holds {len(found)} clips" if clip.is_dir() else "does not exist"
        raise DataError(
            f"{path}, line {listed.line}: {clip} {what}; a line names one clip below {below}"
        )
    return found[0].source


def _of_classes(folder: Path, patient_of: PatientOf) -> LabelledClips:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one that has a folder of clips a class")
    classes = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    classes = [each for each in classes if not each.name.startswith(".")]
    sources: list[Source] = []
    paths: list[str] = []
    labels: list[str] = []
    for each in classes:
        found = _found(each)
        if not found:
            raise DataError(f"{each} has no clips; fill it, or remove it if it is no class")
        sources += [source for source, _ in found]
        paths += [f"{each.name}/{label}" for _, label in found]
        labels += [each.name] * len(found)
    if not classes:
        raise DataError(
            f"{folder} has no labelled clips: give it a folder of clips a class, or videos/ with "
            f"the lists {' and '.join(f'splits/{name}.csv' for name in LISTS)}"
        )
    return LabelledClips(
        FileClips(str(folder), sources, paths),
        tuple(labels),
        tuple(map(patient_of, sources, paths)),
    )


def _found(folder: Path) -> list[tuple[Source, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one that has clips")
    return [(each.source, each.relative.as_posix()) for each in find_clips([folder])[0]]


def _split(
    clips: LabelledClips, *, test_share: float, seed: int
) -> tuple[LabelledClips, LabelledClips]:
    """Give about ``test_share`` of each class's clips to the test, by whole patients.

    Patients are taken in the order of a seeded hash, so that a clip that is added later moves no
    patient that was there.
    """
    ordered = sorted(set(clips.patients), key=partial(_rank, seed))
    tested: set[str] = set()
    for label, count in clips.counts().items():
        of_class = Counter(
            patient
            for patient, its in zip(clips.patients, clips.labels, strict=True)
            if its == label
        )
        if len(of_class) < 2:
            raise DataError(
                f"{clips.clips.name}: all {count} clips of the class {label} are of one patient, "
                "so they cannot be split; add clips of others, or lists in splits/"
            )
        own = [patient for patient in ordered if patient in of_class]
        for patient in own[:-1]:
            if sum(of_class[each] for each in tested) >= test_share * count:
                break
            tested.add(patient)
    sides = [patient in tested for patient in clips.patients]
    return (
        clips.subset([index for index, is_tested in enumerate(sides) if not is_tested]),
        clips.subset([index for index, is_tested in enumerate(sides) if is_tested]),
    )


def _rank(seed: int, patient: str) -> str:
    return hashlib.sha256(f"{seed} {patient}".encode()).hexdigest()
