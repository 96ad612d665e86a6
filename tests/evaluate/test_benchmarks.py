"""Tiny copies of each benchmark's layout: what is whole opens, what is not says what it lacks."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from clip_files import moving_frames, write_frames, write_video
from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.benchmarks import (
    Benchmark,
    built_in_benchmarks,
    load_benchmark,
    open_benchmark,
)


def smaller(name: str, **changes: object) -> Benchmark:
    """Return a built-in benchmark with other expectations."""
    return Benchmark.model_validate(load_benchmark(name).model_dump() | changes)


def frames(folder: Path, count: int = 3, side: int = 16) -> None:
    write_frames(folder, moving_frames(count, side, side))


@pytest.fixture
def colonoscopic(tmp_path: Path) -> Path:
    """Two videos as Endora's scripts leave them."""
    root = tmp_path / "data" / "Colonoscopic_frames"
    for name in ("00001", "00002"):
        frames(root / name)
    (root / "train_128_list.txt").write_text(
        "".join(
            f"/home/them/Colonoscopic_frames/{name}/{number:06d}.png\n"
            for name in ("00001", "00002")
            for number in range(3)
        )
        + "/home/them/Colonoscopic_frames/train_128_list.txt\n"
    )
    return root


COLONOSCOPIC = smaller("colonoscopic", num_videos=2, frame_size_px=(16, 16))


def test_every_built_in_description_is_one() -> None:
    assert {"colonoscopic", "kvasir-capsule", "cholectriplet", "echonet-dynamic"} <= set(
        built_in_benchmarks()
    )
    for name in built_in_benchmarks():
        assert load_benchmark(name).name == name
    with pytest.raises(ConfigError, match=r"no benchmark 'kinetics'.*colonoscopic"):
        load_benchmark("kinetics")


@pytest.mark.parametrize("above", [False, True])
def test_endoras_frames_open_from_their_folder_and_the_one_above(
    colonoscopic: Path, above: bool
) -> None:
    clips = open_benchmark(COLONOSCOPIC, colonoscopic.parent if above else colonoscopic)
    assert (clips.name, len(clips), clips.num_frames(0)) == ("colonoscopic", 2, 3)
    assert clips.label(1) == "00002"


def test_endoras_videos_open_too(tmp_path: Path) -> None:
    for name in ("00001", "00002"):
        write_video(tmp_path / f"{name}.mp4", moving_frames(), "libx264")
    assert open_benchmark(COLONOSCOPIC, tmp_path).label(0) == "00001.mp4"


def test_a_wrong_count_is_told_and_a_partial_copy_bears_it_in_its_name(
    colonoscopic: Path,
) -> None:
    whole = load_benchmark("colonoscopic")
    with pytest.raises(DataError, match="it has 210 videos, and 2 were found; complete the copy"):
        open_benchmark(whole, colonoscopic)
    part = smaller("colonoscopic", frame_size_px=(16, 16))
    opened = open_benchmark(part, colonoscopic, partial=True)
    assert opened.name == "colonoscopic (partial: 2 of 210)"
    frames(colonoscopic / "00003")
    with pytest.raises(DataError, match="it has 2 videos, and 3 were found; give the folder"):
        open_benchmark(COLONOSCOPIC, colonoscopic, partial=True)


def test_a_list_that_does_not_fit_the_frames_is_told(colonoscopic: Path) -> None:
    (colonoscopic / "00002" / "000002.png").unlink()
    with pytest.raises(DataError, match=r"5 are there: 00002/000002\.png missing"):
        open_benchmark(COLONOSCOPIC, colonoscopic)
    (colonoscopic / "00002" / "000007.png").touch()
    with pytest.raises(DataError, match=r"00002/000007.png not named; make list and frames anew"):
        open_benchmark(COLONOSCOPIC, colonoscopic, partial=True)


def test_frames_of_another_size_are_told(colonoscopic: Path) -> None:
    other = smaller("colonoscopic", num_videos=2)
    with pytest.raises(DataError, match=r"00001 has frames of 16 x 16 pixels; .* have 128 x 128"):
        open_benchmark(other, colonoscopic)


def test_an_empty_folder_is_told(tmp_path: Path, colonoscopic: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for name in ("colonoscopic", "echonet-dynamic", "folder"):
        with pytest.raises(DataError, match=rf"holds no video \(benchmark {name}"):
            open_benchmark(load_benchmark(name), tmp_path / "nothing")
    with pytest.raises(
        DataError, match=r"does not exist; give where the real videos are \(colonoscopic\)"
    ):
        open_benchmark(COLONOSCOPIC, tmp_path / "absent")
    (colonoscopic / "00003").mkdir()
    with pytest.raises(DataError, match="00003 holds no picture"):
        open_benchmark(COLONOSCOPIC, colonoscopic)


CHOLEC = smaller(
    "cholectriplet",
    num_videos=3,
    videos=("VID01", "VID02", "VID92"),
    splits={"train": ("VID01", "VID02"), "test": ("VID92",)},
)


def test_cholectriplet_knows_its_videos_by_name(tmp_path: Path) -> None:
    for name in ("VID01", "VID02", "VID92"):
        frames(tmp_path / "videos" / name)
    (tmp_path / "labels").mkdir()
    assert len(open_benchmark(CHOLEC, tmp_path)) == 3
    test = open_benchmark(CHOLEC, tmp_path, split="test")
    assert (test.name, test.label(0), len(test)) == ("cholectriplet/test", "VID92", 1)
    with pytest.raises(ConfigError, match=r"no split 'fold-1'; it has: all, train, test"):
        open_benchmark(CHOLEC, tmp_path, split="fold-1")
    (tmp_path / "videos" / "VID02").rename(tmp_path / "videos" / "VID03")
    with pytest.raises(DataError, match="is not cholectriplet: VID03 are none of its 3 videos"):
        open_benchmark(CHOLEC, tmp_path)


def test_a_missing_video_of_cholectriplet_is_named(tmp_path: Path) -> None:
    for name in ("VID01", "VID92"):
        frames(tmp_path / "data" / name)
    with pytest.raises(DataError, match="of 3 videos 2 were found, VID02 are missing"):
        open_benchmark(CHOLEC, tmp_path)
    part = open_benchmark(CHOLEC, tmp_path, split="train", partial=True)
    assert part.name == "cholectriplet/train (partial: 1 of 2)"


ECHONET = smaller(
    "echonet-dynamic",
    num_videos=3,
    frame_size_px=(48, 64),
    split_counts={"train": 1, "val": 1, "test": 1},
)


@pytest.fixture
def echonet(tmp_path: Path) -> Path:
    """A list of three videos, with and without suffix, and the videos."""
    (tmp_path / "Videos").mkdir()
    with (tmp_path / "FileList.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["FileName", "EF", "Split"])
        for name, split in (("0XA", "TRAIN"), ("0XB.avi", "VAL"), ("0XC", "TEST")):
            rows.writerow([name, "60.1", split])
            path = tmp_path / "Videos" / f"{name.removesuffix('.avi')}.avi"
            write_video(path, moving_frames(6), "mjpeg", "yuvj420p")
    return tmp_path


def test_echonet_opens_by_its_list(echonet: Path) -> None:
    test = open_benchmark(ECHONET, echonet)
    assert (test.name, test.label(0), test.num_frames(0)) == ("echonet-dynamic/test", "0XC.avi", 6)
    assert len(open_benchmark(ECHONET, echonet, split="all")) == 3


def test_what_echonet_lacks_is_told(echonet: Path) -> None:
    with pytest.raises(DataError, match="it has 10030 videos, and 3 were found"):
        open_benchmark(load_benchmark("echonet-dynamic"), echonet)
    other = smaller("echonet-dynamic", num_videos=3, split_counts={"train": 2, "test": 1})
    with pytest.raises(DataError, match="'train' has 2 videos, and the list names 1"):
        open_benchmark(other, echonet)
    with pytest.raises(DataError, match="48 x 64 pixels; those of echonet-dynamic have 112 x 112"):
        open_benchmark(ECHONET.model_copy(update={"frame_size_px": (112, 112)}), echonet)
    (echonet / "Videos" / "0XA.avi").unlink()
    with pytest.raises(DataError, match=r"names 3 videos, and 2 are there \(0XA.avi missing\)"):
        open_benchmark(ECHONET, echonet)
    assert open_benchmark(ECHONET, echonet, partial=True).name == "echonet-dynamic/test"
    part = open_benchmark(ECHONET, echonet, split="all", partial=True)
    assert part.name == "echonet-dynamic (partial: 2 of 3)"
    (echonet / "FileList.csv").write_text("FileName,EF\n0XA,60\n")
    with pytest.raises(DataError, match=r"no column 'Split' \(it has: FileName, EF\)"):
        open_benchmark(ECHONET, echonet)


def test_any_folder_is_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_video(tmp_path / "deep" / "b.mp4", moving_frames(), "libx264")
    write_video(tmp_path / "a.avi", moving_frames(8, 32, 32), "mjpeg", "yuvj420p")
    frames(tmp_path / "c")
    clips = open_benchmark(load_benchmark("folder"), tmp_path)
    assert {clips.label(index) for index in range(3)} == {"a.avi", "deep/b.mp4", "c"}
    assert [clips.size_px(index) for index in range(2)] == [(32, 32), (48, 64)]


def test_a_manifest_names_files_folders_splits_and_patients(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(), "libx264")
    frames(tmp_path / "b")
    table = tmp_path / "set.csv"
    table.write_text("path,split,patient\na.mp4,test,p1\nb,train,p2\n")
    manifest = load_benchmark("manifest")
    clips = open_benchmark(manifest, table, split="test")
    assert (clips.name, len(clips), clips.patient(0)) == ("manifest/test", 1, "p1")
    assert len(open_benchmark(manifest, table)) == 2
    with pytest.raises(ConfigError, match="it has: all, test, train"):
        open_benchmark(manifest, table, split="val")
    table.write_text("path\nc.mp4\n")
    with pytest.raises(DataError, match=r"line 2: c\.mp4 is no file and holds no frames"):
        open_benchmark(manifest, table)
    table.write_text("file\na.mp4\n")
    with pytest.raises(DataError, match="has no column 'path'"):
        open_benchmark(manifest, table)


def test_ones_own_description_is_a_benchmark(tmp_path: Path) -> None:
    frames(tmp_path / "v" / "one")
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nlayouts: [frames]\nnum_videos: 2\n")
    with pytest.raises(DataError, match="it has 2 videos, and 1 were found"):
        open_benchmark(load_benchmark(str(own)), tmp_path / "v")
    own.write_text("name: own\nlayouts: [list]\n")
    with pytest.raises(ConfigError, match="layout `list` and video_list go together"):
        load_benchmark(str(own))
