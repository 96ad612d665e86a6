"""Patients, not clips, are held out of training."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from feat_fed.config import ClipConfig
from feat_fed.data.inventory.entries import ClipEntry
from feat_fed.data.inventory.manifest import Manifest

Side = Literal["train", "heldout"]


@dataclass(frozen=True)
class Split:
    """A site's clips on two sides; no patient is on both."""

    train: tuple[ClipEntry, ...]
    heldout: tuple[ClipEntry, ...]

    @property
    def sides(self) -> dict[str, Side]:
        """Return each patient's side."""
        train: dict[str, Side] = {entry.patient: "train" for entry in self.train}
        return train | {entry.patient: "heldout" for entry in self.heldout}


def split_site(
    entries: Iterable[ClipEntry], *, heldout_fraction: float, manifest: Manifest
) -> Split:
    """Split a site's clips; the manifest remembers each patient's side of this fraction."""
    entries, known = tuple(entries), known_sides(manifest, heldout_fraction=heldout_fraction)
    split = split_by_patient(
        entries, heldout_fraction=heldout_fraction, key=manifest.key, known=known
    )
    sides = split.sides
    if new := {patient: side for patient, side in sides.items() if patient not in known}:
        with manifest.changing() as database:
            database.executemany(
                "INSERT INTO sides VALUES (?, ?, ?)",
                [(repr(heldout_fraction), patient, side) for patient, side in new.items()],
            )
    return split


def sides_of(
    entries: Iterable[ClipEntry], clips: ClipConfig, manifest: Manifest
) -> dict[str, Side]:
    """Return the sides that :func:`split_site` would give, and record nothing."""
    fraction = clips.heldout_fraction
    known = known_sides(manifest, heldout_fraction=fraction)
    return split_by_patient(entries, heldout_fraction=fraction, key=manifest.key, known=known).sides


def known_sides(manifest: Manifest, *, heldout_fraction: float) -> dict[str, Side]:
    """Return the side of each patient who was once given one for this fraction."""
    rows = manifest.select(
        "SELECT patient, side FROM sides WHERE fraction = ?", repr(heldout_fraction)
    )
    return {row["patient"]: row["side"] for row in rows}


def split_by_patient(
    entries: Iterable[ClipEntry],
    *,
    heldout_fraction: float,
    key: bytes,
    known: Mapping[str, Side] | None = None,
) -> Split:
    """Hold out about ``heldout_fraction`` of the patients.

    A ``known`` patient keeps that side. Each other one's keyed hash is a number in [0, 1); a
    patient below the fraction is held out. Only where that leaves a side empty does the rule
    look at all new patients. If nobody trains, the highest number does. If nobody is held out,
    although the fraction is above zero and there are two patients, the lowest number is, among
    those who own at most half of the clips if there are such.
    """
    entries, known = tuple(entries), known or {}
    patients = {entry.patient for entry in entries}
    number = {each: _unit_interval(each, key) for each in patients if each not in known}
    ordered = sorted(number, key=lambda patient: (number[patient], patient))
    heldout = {each for each in patients if known.get(each) == "heldout"}
    heldout |= {each for each in ordered if number[each] < heldout_fraction}
    if heldout == patients:
        heldout -= set(ordered[-1:])
    if not heldout and heldout_fraction > 0 and len(patients) > 1 and ordered:
        clips = Counter(entry.patient for entry in entries)
        small = [each for each in ordered if 2 * clips[each] <= len(entries)]
        heldout = {(small or ordered)[0]}
    return Split(
        train=tuple(entry for entry in entries if entry.patient not in heldout),
        heldout=tuple(entry for entry in entries if entry.patient in heldout),
    )


def _unit_interval(patient: str, key: bytes) -> float:
    digest = hmac.new(key, b"split " + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a double, never 1
