"""Clips whose class is known, and whose they are.

Legend: N clips.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from feat_fed.data.reading.clip import Source
from feat_fed.data.reading.reader import is_dicom, probe
from feat_fed.errors import ClipError, ConfigError, DataError
from feat_fed.evaluate.clips import FileClips

PatientOf = Callable[[Source, str], str]
"""From a clip's files and its path below the folder to its patient."""

_NAMED = 5
"""Clips that a message names; the others it counts."""


@dataclass(frozen=True)
class LabelledClips:
    """Clips, the class of each by name, and whose they are.

    Parameters
    ----------
    labels, patients
        One a clip. A clip whose patient nothing tells is a patient of its own.
    """

    clips: FileClips
    labels: tuple[str, ...]
    patients: tuple[str, ...]

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """Return the number of clips of each class."""
        counted = Counter(self.labels)
        return {label: counted[label] for label in class_names(counted)}

    def subset(self, indices: Sequence[int]) -> LabelledClips:
        """Return some of the clips, in the order given."""
        return LabelledClips(
            self.clips.subset(indices),
            tuple(self.labels[index] for index in indices),
            tuple(self.patients[index] for index in indices),
        )


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes in order: whole numbers by value, then names."""

    def place(name: str) -> tuple[int, int, str]:
        return (0, int(name), "") if name.isdecimal() else (1, 0, name)

    return tuple(sorted(set(labels), key=place))


def patient_by(pattern: str) -> PatientOf:
    """Return what tells a clip's patient: DICOM's header, or else a group in its path.

    Raises
    ------
    ConfigError
        When ``pattern`` is no regular expression with one group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--patient-pattern {pattern}: {error}; correct it") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"--patient-pattern {pattern} has {compiled.groups} groups; put the part that names "
            "the patient into one pair of brackets, such as (patient-[0-9]+)"
        )

    def patient_of(source: Source, label: str) -> str:
        try:
            in_header = probe(source).patient_key if is_dicom(source[0]) else None
        except ClipError:  # reading it will fail, and say so
            in_header = None
        match = compiled.search(label)
        return in_header or (match[1].lower() if match and match[1] else label)

    return patient_of


def refuse_shared(train: FileClips, test: FileClips) -> None:
    """Refuse files that are trained and tested on, whatever they are called.

    Raises
    ------
    DataError
        When there are any, naming them.
    """
    tested = dict(zip(test.sha256s, range(len(test)), strict=True))
    both = [
        f"{train.label(index)} (tested on as {test.label(tested[digest])})"
        for index, digest in enumerate(train.sha256s)
        if digest in tested
    ]
    if both:
        raise DataError(
            f"{train.name}: {named(both)} would be trained and tested on; leave each on one side"
        )


def named(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more
