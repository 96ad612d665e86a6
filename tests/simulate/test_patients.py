"""Whose a clip is, and of which kind, before any site has looked at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.errors import ConfigError, DataError
from feat_fed.simulate.patients import find_patients

FRAMES = moving_frames(2, 16, 16)


def video(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, FRAMES, "mpeg4")


def dicom(path: Path, patient: str, modality: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(path, FRAMES, PatientID=patient, Modality=modality)


def test_header_folder_name_or_file_tell_the_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "echo" / "a" / "1.dcm", "P", "US")
    dicom(tmp_path / "2.dcm", "P", "MUELLER ANNA")
    for name in ("echo/b/1.mp4", "echo/b/deep/2.mp4", "lung/b/1.mp4", "pat7_x.mp4", "u/pat7_y.mp4"):
        video(tmp_path / name)
    video(tmp_path / "alone.mp4")
    (tmp_path / "notes.txt").write_text("x")
    found = {each.key: each for each in find_patients([tmp_path])}
    counts = {key: len(each.clips) for key, each in found.items()}
    assert counts == {"P": 2, "alone.mp4": 1, "echo/b": 2, "lung/b": 1, "pat7": 2}
    assert found["echo/b"].label == "echo"
    assert found["alone.mp4"].label == "none"
    assert {each.modality for each in found["P"].clips} == {"US", "unknown"}
    assert found["pat7"].modality == "video"


def test_a_pattern_comes_before_folders(tmp_path: Path) -> None:
    for name in ("echo/b/case12-a.mp4", "lung/c/case12-b.mp4", "lung/c/other.mp4"):
        video(tmp_path / name)
    found = find_patients([tmp_path], pattern=r"(case\d+)")
    assert [each.key for each in found] == ["case12", "lung/c"]


def test_a_manifest_says_who_and_what_and_nothing_else_is_taken(tmp_path: Path) -> None:
    for name in ("1.mp4", "2.mp4", "3.mp4"):
        video(tmp_path / "data" / name)
    dicom(tmp_path / "data" / "4.dcm", "P", "ES")
    table = tmp_path / "clips.csv"
    table.write_text("path,patient,label\n1.mp4,A,echo\n2.mp4,A,echo\n4.dcm,A,lung\n")
    found = {each.key: each for each in find_patients([tmp_path / "data"], manifest=table)}
    assert {key: len(each.clips) for key, each in found.items()} == {"A": 2, "P": 1}
    assert (found["A"].label, found["P"].label) == ("echo", "lung")


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("path,patient\nabsent.mp4,A\n", DataError, "line 2: 'absent.mp4' is no clip"),
        ("file,patient\n1.mp4,A\n", ConfigError, "columns file, patient"),
        ("", ConfigError, "columns nothing"),
    ],
)
def test_manifests_that_are_not_in_order(
    text: str, kind: type[Exception], told: str, tmp_path: Path
) -> None:
    video(tmp_path / "data" / "1.mp4")
    table = tmp_path / "clips.csv"
    table.write_text(text)
    with pytest.raises(kind, match=told):
        find_patients([tmp_path / "data"], manifest=table)
    with pytest.raises(ConfigError, match="cannot be read"):
        find_patients([tmp_path / "data"], manifest=tmp_path / "absent.csv")
