"""Patients on one side only, and on the same one tomorrow."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from feat_fed.data import ClipEntry, split_by_patient

KEY = b"k" * 32


def entries(patients: list[int]) -> list[ClipEntry]:
    return [
        ClipEntry((Path(f"{index}.mp4"),), f"{index:064}", f"{patient:064}", 30, 48, 64, 25.0)
        for index, patient in enumerate(patients)
    ]


@given(st.lists(st.integers(0, 8), max_size=30), st.floats(0, 0.99), st.binary(min_size=32))
def test_both_sides(patients: list[int], fraction: float, key: bytes) -> None:
    clips = entries(patients)
    split = split_by_patient(clips, heldout_fraction=fraction, key=key)
    train = {clip.patient for clip in split.train}
    heldout = {clip.patient for clip in split.heldout}
    assert sorted(split.train + split.heldout, key=lambda clip: clip.sha256) == clips
    assert not train & heldout
    assert bool(train) == bool(patients)
    assert bool(heldout) == (len(set(patients)) > 1 and fraction > 0)


def test_share_is_about_the_fraction() -> None:
    split = split_by_patient(entries(list(range(2000))), heldout_fraction=0.2, key=KEY)
    assert 340 < len(split.heldout) < 460


def test_patients_keep_their_side_when_others_come() -> None:
    few = split_by_patient(entries(list(range(40))), heldout_fraction=0.3, key=KEY)
    many = split_by_patient(entries(list(range(400))), heldout_fraction=0.3, key=KEY)
    assert set(few.train) <= set(many.train)
    assert set(few.heldout) <= set(many.heldout)


def test_the_one_who_is_held_out_by_force_owns_no_majority() -> None:
    for number in range(20):
        clips = entries([0] * 6 + [1, 2])
        split = split_by_patient(clips, heldout_fraction=1e-9, key=bytes([number]) * 32)
        assert len(split.heldout) == 1


def test_one_patient_trains() -> None:
    split = split_by_patient(entries([3, 3]), heldout_fraction=0.9, key=KEY)
    assert (len(split.train), len(split.heldout)) == (2, 0)
