"""Patients, not clips, are held out of training."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from feat_fed.data.inventory.scan import ClipEntry


@dataclass(frozen=True)
class Split:
    """A site's clips on two sides; no patient is on both."""

    train: tuple[ClipEntry, ...]
    heldout: tuple[ClipEntry, ...]


def split_by_patient(entries: Iterable[ClipEntry], *, heldout_fraction: float, key: bytes) -> Split:
    """Hold out about ``heldout_fraction`` of the patients.

    Each patient's keyed hash is a number in [0, 1); below the fraction it is held out. That
    depends on nobody else, so a patient stays on the same side when data are added. Only where
    it leaves a side empty does the rule look at all patients. If nobody trains, the highest
    number does. If nobody is held out, although the fraction is above zero and there are two
    patients, the lowest number is, among those who own at most half of the clips.
    """
    entries = tuple(entries)
    number = {entry.patient: _unit_interval(entry.patient, key) for entry in entries}
    ordered = sorted(number, key=lambda patient: (number[patient], patient))
    heldout = {patient for patient in ordered if number[patient] < heldout_fraction}
    heldout -= set(ordered[-1:])
    if not heldout and heldout_fraction > 0 and len(ordered) > 1:
        clips = Counter(entry.patient for entry in entries)
        heldout = {next(each for each in ordered if 2 * clips[each] <= len(entries))}
    return Split(
        train=tuple(entry for entry in entries if entry.patient not in heldout),
        heldout=tuple(entry for entry in entries if entry.patient in heldout),
    )


def _unit_interval(patient: str, key: bytes) -> float:
    digest = hmac.new(key, b"split " + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a double, never 1
