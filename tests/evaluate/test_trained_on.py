"""Videos that were trained on are refused where that can be known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.data.inventory.identity import pseudonym
from feat_fed.data.inventory.manifest import Manifest
from feat_fed.errors import DataError
from feat_fed.evaluate.benchmarks import load_benchmark, open_benchmark
from feat_fed.evaluate.clips import FileClips
from feat_fed.evaluate.trained_on import read_trained_on, refuse_trained_on


@pytest.fixture
def benchmark(tmp_path: Path) -> FileClips:
    """Two videos and a DICOM file of a patient."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    write_video(folder / "a.mp4", moving_frames(), "libx264")
    write_video(folder / "b.mp4", moving_frames(12), "libx264")
    write_dicom(folder / "c.dcm", PatientID="P 1")
    return open_benchmark(load_benchmark("folder"), folder)


def store_of(tmp_path: Path, contents: list[tuple[str, str]], sides: dict[str, str]) -> Path:
    """Write what a site's store remembers of contents (SHA-256, patient) and of its split."""
    store = tmp_path / "store"
    with Manifest(store, alone=None) as manifest, manifest.changing() as database:
        names = {patient: pseudonym(patient, key=manifest.key) for _, patient in contents}
        database.executemany(
            "INSERT INTO contents VALUES (?, ?)", [(sha, names[each]) for sha, each in contents]
        )
        database.executemany(
            "INSERT INTO sides VALUES ('0.2', ?, ?)",
            [(names[patient], side) for patient, side in sides.items()],
        )
    return store


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_contents_of_a_store_are_refused_unless_their_patient_was_held_out(
    tmp_path: Path, benchmark: FileClips
) -> None:
    folder = tmp_path / "benchmark"
    contents = [(sha256(folder / "a.mp4"), "p"), (sha256(folder / "b.mp4"), "q")]
    store = store_of(tmp_path, contents, {"p": "train", "q": "heldout"})
    known = read_trained_on([store], heldout_fraction=0.2)
    assert known.overlap(benchmark) == [0]
    with pytest.raises(DataError, match=r"1 of 3 videos .benchmark folder.* a.mp4\. A number"):
        refuse_trained_on(benchmark, known)
    said = refuse_trained_on(benchmark, known, allow=True)
    assert (said.name, benchmark.name) == ("folder (trained on: 1 of 3)", "folder")
    assert said.digest == benchmark.digest
    # of another study's split nothing is known: all of the store counts
    other = read_trained_on([store], heldout_fraction=0.5)
    assert other.overlap(benchmark) == [0, 1]


def test_another_file_of_a_patient_who_was_trained_on_is_refused(
    tmp_path: Path, benchmark: FileClips
) -> None:
    known = read_trained_on([store_of(tmp_path, [("0" * 64, "P 1")], {"P 1": "train"})])
    assert [benchmark.label(index) for index in known.overlap(benchmark)] == ["c.dcm"]


def test_a_list_and_a_folder_of_what_was_trained_on_do_as_well(
    tmp_path: Path, benchmark: FileClips
) -> None:
    folder = tmp_path / "benchmark"
    listed = tmp_path / "trained.txt"
    listed.write_text(f"# training set\n{sha256(folder / 'b.mp4').upper()}  clips/b.mp4\n\n")
    assert read_trained_on([listed]).overlap(benchmark) == [1]
    assert read_trained_on([folder]).overlap(benchmark) == [0, 1, 2]
    assert read_trained_on([]).overlap(benchmark) == []


@pytest.mark.parametrize(
    ("text", "says"), [("a.mp4\n", "line 1, is no SHA-256"), ("# nothing\n", "names no SHA-256")]
)
def test_a_list_of_something_else_is_told(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        read_trained_on([tmp_path / "list.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no site's store"):
        read_trained_on([tmp_path / "empty"])
