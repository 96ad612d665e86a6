"""Hospitals out of folders that people have."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.data import hospitals_from_folder
from feat_fed.errors import DataError
from shared_files import media

FRAMES = moving_frames(4)


def video(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, FRAMES, "mpeg4")


def test_a_subfolder_is_a_hospital(tmp_path: Path) -> None:
    video(tmp_path / "St. Mary's" / "p" / "1.mp4")
    video(tmp_path / "Charité" / "1.mp4")
    (tmp_path / "docs").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    hospitals = hospitals_from_folder(tmp_path)
    assert {name: site.paths for name, site in hospitals.items()} == {
        "charit": (tmp_path / "Charité",),
        "st-mary-s": (tmp_path / "St. Mary's",),
    }


def test_names_that_collide_or_vanish(tmp_path: Path) -> None:
    video(tmp_path / "A b" / "1.mp4")
    video(tmp_path / "a-b" / "1.mp4")
    with pytest.raises(DataError, match="would both be the site 'a-b'"):
        hospitals_from_folder(tmp_path)
    (tmp_path / "A b").rename(tmp_path / "東京")
    with pytest.raises(DataError, match="no site name can be made"):
        hospitals_from_folder(tmp_path)


def test_a_flat_folder_is_dealt_by_patient(tmp_path: Path) -> None:
    for name in ("pat1_a", "pat1_b", "Patient-2 a", "Patient-2 b", "x", "y"):
        video(tmp_path / f"{name}.mp4")
    write_dicom(tmp_path / "one.dcm", FRAMES, PatientID="D")
    write_dicom(tmp_path / "two.dcm", FRAMES[::-1].copy(), PatientID="D")
    hospitals = hospitals_from_folder(tmp_path)
    names = {name: {path.name for path in site.paths} for name, site in hospitals.items()}
    assert names == {
        "hospital-1": {"one.dcm", "two.dcm", "pat1_a.mp4", "pat1_b.mp4", "y.mp4"},
        "hospital-2": {"Patient-2 a.mp4", "Patient-2 b.mp4", "x.mp4"},
    }


@pytest.mark.parametrize("names", [[], ["pat1_a.mp4", "pat1_b.mp4"], ["only/1.mp4"]])
def test_too_few(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        video(tmp_path / name)
    with pytest.raises(DataError, match="a study needs two: give every hospital a sub-folder"):
        hospitals_from_folder(tmp_path)


def test_two_patients_make_two_hospitals(tmp_path: Path) -> None:
    video(tmp_path / "pat1.mp4")
    video(tmp_path / "pat2.mp4")
    assert list(hospitals_from_folder(tmp_path)) == ["hospital-1", "hospital-2"]


def test_loose_clips_beside_folders(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "b/1.mp4", "loose.mp4"):
        video(tmp_path / name)
    with pytest.raises(DataError, match="1 clips beside 2 folders"):
        hospitals_from_folder(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        hospitals_from_folder(tmp_path / "loose.mp4")


def test_real_lung_ultrasound_gives_four_hospitals() -> None:
    hospitals = hospitals_from_folder(media("lung_us"))
    assert len(hospitals) == 4
    assert sum(len(site.paths) for site in hospitals.values()) == 31
