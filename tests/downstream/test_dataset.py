"""Folders of clips with labels, and what is wrong with some."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from feat_fed.config.site import PATIENT_IN_NAME
from feat_fed.downstream.dataset import read_labelled, read_split, read_unlabelled
from feat_fed.downstream.labelled import LabelledClips, class_names, patient_by
from feat_fed.errors import ConfigError, DataError
from labelled_clips import write_classes, write_clip, write_polypdiag

PATIENT_OF = patient_by(PATIENT_IN_NAME)


def split(root: Path, share: float = 0.3, seed: int = 0) -> tuple[LabelledClips, LabelledClips]:
    return read_split(root, PATIENT_OF, test_share=share, seed=seed)


def names(clips: LabelledClips) -> list[str]:
    return [clips.clips.label(index) for index in range(len(clips))]


def test_polypdiags_lists_keep_their_order(tmp_path: Path) -> None:
    train, test = split(write_polypdiag(tmp_path, train=2, test=1))
    assert names(train) == [
        "echo-00.mp4",
        "endoscopy-00.mp4",
        "echo-01.mp4",
        "endoscopy-01.mp4",
    ]
    assert train.labels == ("0", "1", "0", "1")
    assert test.counts() == {"0": 1, "1": 1}
    assert train.clips.read(1, 2, 3).shape == (3, 48, 48, 3)


def test_lists_may_be_txt_have_blanks_for_commas_a_heading_and_folders_of_frames(
    tmp_path: Path,
) -> None:
    write_polypdiag(tmp_path, train=1, test=1)
    frames = tmp_path / "videos" / "cine"
    frames.mkdir()
    for number in range(3):
        Image.new("RGB", (48, 48), (number, 0, 0)).save(frames / f"{number:03d}.png")
    (tmp_path / "splits" / "train.csv").unlink()
    (tmp_path / "splits" / "train.txt").write_text(
        "name label\n\nechoes of x/echo-00.mp4 0\nendoscopy-00.mp4 1\ncine 0\n"
    )
    (tmp_path / "videos" / "echoes of x").mkdir()
    shutil.move(tmp_path / "videos" / "echo-00.mp4", tmp_path / "videos" / "echoes of x")
    train, _ = split(tmp_path)
    assert names(train) == ["echoes of x/echo-00.mp4", "endoscopy-00.mp4", "cine"]
    assert train.clips.num_frames(2) == 3


def test_a_folder_a_class_with_and_without_a_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "a" / "train", clips=2)
    write_classes(tmp_path / "a" / "val", clips=1, first_seed=5)  # names are those of train/
    train, test = split(tmp_path / "a")
    assert (train.counts(), test.counts()) == (
        {"echo": 2, "endoscopy": 2},
        {"echo": 1, "endoscopy": 1},
    )
    write_classes(tmp_path / "b", clips=5)
    train, test = split(tmp_path / "b", share=0.4)
    assert train.counts() == {"echo": 3, "endoscopy": 3}
    everything = read_labelled(tmp_path / "b", PATIENT_OF)
    assert sorted(names(train) + names(test)) == sorted(names(everything))
    assert names(split(tmp_path / "b", share=0.4)[1]) == names(test)
    assert any(names(split(tmp_path / "b", share=0.4, seed=n)[1]) != names(test) for n in (1, 2, 3))


def test_a_split_is_made_by_patient(tmp_path: Path) -> None:
    for patient in range(4):
        for clip in range(2):
            for label in ("echo", "endoscopy"):
                path = tmp_path / label / f"pat{patient}" / f"{clip}.mp4"
                write_clip(path, label, 10 * patient + clip)
    train, test = split(tmp_path, share=0.25)
    assert set(train.patients) | set(test.patients) == {"pat0", "pat1", "pat2", "pat3"}
    assert not set(train.patients) & set(test.patients)
    assert test.counts() == {"echo": 2, "endoscopy": 2}


def test_one_patient_cannot_be_split(tmp_path: Path) -> None:
    for clip in range(3):
        write_clip(tmp_path / "a" / f"pat1_{clip}.mp4", "echo", clip)
        write_clip(tmp_path / "b" / f"pat{clip}_x.mp4", "endoscopy", clip)
    with pytest.raises(DataError, match="all 3 clips of the class a are of one patient"):
        split(tmp_path)


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    for side, clip in (("train", 1), ("test", 2)):
        write_clip(tmp_path / side / "a" / f"Pat7_{clip}.mp4", "echo", clip)
        write_clip(tmp_path / side / "b" / f"pat{clip}_x.mp4", "endoscopy", clip)
    with pytest.raises(DataError, match=r"pat7 would be trained and tested on.*--patient-pattern"):
        split(tmp_path)
    nobody = patient_by("(nobody)")
    train, _ = read_split(tmp_path, nobody, test_share=0.3, seed=0)
    assert train.patients == ("a/Pat7_1.mp4", "b/pat1_x.mp4")


def test_the_same_file_under_another_name_is_refused(tmp_path: Path) -> None:
    write_polypdiag(tmp_path, train=2, test=1)
    shutil.copy(tmp_path / "videos" / "echo-00.mp4", tmp_path / "videos" / "echo-02.mp4")
    with pytest.raises(DataError, match=r"echo-00\.mp4 \(tested on as echo-02\.mp4\)"):
        split(tmp_path)


@pytest.mark.parametrize(
    ("list_name", "line", "says"),
    [
        ("train.csv", "gone.mp4,1", r"train\.csv, line 3: .*gone\.mp4 does not exist"),
        ("train.csv", "echo-00.mp4,0", r"line 3: echo-00\.mp4 stands in line 1 too"),
        ("train.csv", "echo-00.mp4", r"line 3: 'echo-00\.mp4' is no `name,label`"),
        ("train.csv", "../x.mp4,1", r"line 3: \.\./x\.mp4 is outside"),
        ("train.csv", ".,1", r"line 3: .* holds 4 clips; a line names one"),
        ("train.csv", "echo-01.mp4,2", "clips of the class 2 and none to test on"),
        ("val.csv", "echo-00.mp4,2", "clips of the class 2 and none to train on"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, list_name: str, line: str, says: str) -> None:
    write_polypdiag(tmp_path, train=1, test=1)
    with (tmp_path / "splits" / list_name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=says):
        split(tmp_path)


def test_empty_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        split(tmp_path / "absent")
    with pytest.raises(DataError, match="has no labelled clips"):
        split(tmp_path)
    with pytest.raises(DataError, match="has no clips; name the folder of generated"):
        read_unlabelled(tmp_path, at_most=5)
    (tmp_path / "echo").mkdir()
    with pytest.raises(DataError, match="echo has no clips"):
        split(tmp_path)
    write_classes(tmp_path / "train", clips=1)
    with pytest.raises(DataError, match="neither test nor val"):
        split(tmp_path)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.csv").write_text("\n")
    with pytest.raises(DataError, match="none to test on"):
        split(tmp_path)
    (tmp_path / "splits" / "val.csv").write_text("\n")
    with pytest.raises(DataError, match="lists no clips"):
        split(tmp_path)


def test_one_class_is_no_task(tmp_path: Path) -> None:
    for number in range(3):
        write_clip(tmp_path / "echo" / f"{number}.mp4", "echo", number)
    with pytest.raises(DataError, match="one class echo; a classifier needs two"):
        split(tmp_path)


def test_unlabelled_clips_are_the_first_by_name(tmp_path: Path) -> None:
    write_classes(tmp_path, clips=2)
    clips = read_unlabelled(tmp_path, at_most=3)
    assert [clips.label(index) for index in range(len(clips))] == [
        "echo/echo-00.mp4",
        "echo/echo-01.mp4",
        "endoscopy/endoscopy-00.mp4",
    ]


def test_classes_are_in_the_order_of_numbers() -> None:
    assert class_names(["10", "9", "b", "a", "9"]) == ("9", "10", "a", "b")


@pytest.mark.parametrize(("pattern", "says"), [("pat", "0 groups"), ("(", "unterminated")])
def test_a_wrong_pattern_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        patient_by(pattern)
