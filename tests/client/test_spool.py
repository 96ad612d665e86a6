"""A finished update stays until the server has it, and is what it was."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from feat_fed.config import load_study
from feat_fed.protocol import Assignment, Report, Task
from feat_fed.train.exchange import exchange_in
from feat_fed_client import round_files
from feat_fed_client.round_files import KEEP_DAYS, forget_rounds, tidy
from feat_fed_client.spool import Spool

STUDY, OTHER = "a" * 32, "b" * 32


def report(number: int) -> Report:
    return Report(
        study_id=STUDY,
        round=number,
        task="train",
        site="a",
        outcome="ok",
        examples=3,
        steps=7,
        train_loss=0.1 + 0.2,
        train_sec=1 / 3,
    )


def told(number: int, task: Task = "train") -> Assignment:
    study = load_study("demo")
    return Assignment(study_id=STUDY, round=number, task=task, first_step=0, study=study)


WEIGHTS = {"w": torch.randn(3, 4), "b": torch.randn(())}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.of(tmp_path, study_id=STUDY)


def test_an_update_is_found_by_what_was_asked_and_by_nothing_else(spool: Spool) -> None:
    assert spool.find("asked") is None
    spool.write("asked", report(3), WEIGHTS)
    found = spool.find("asked")
    assert found is not None
    assert found[0] == report(3)
    assert {name: each.numpy().tobytes() for name, each in found[1].items()} == {
        name: each.numpy().tobytes() for name, each in WEIGHTS.items()
    }
    assert spool.find("with other weights") is None


@pytest.mark.parametrize(
    ("number", "task", "stays"),
    [(2, "train", True), (3, "train", True), (4, "train", False), (3, "evaluate", False)],
)
def test_the_servers_next_word_acknowledges_it(
    number: int, task: Task, stays: bool, spool: Spool
) -> None:
    spool.write("asked", report(3), WEIGHTS)
    spool.settle(told(number, task))
    assert (spool.find("asked") is not None) == stays


def test_there_is_one_a_study_at_most(spool: Spool) -> None:
    spool.write("asked", report(3), WEIGHTS)
    spool.write("asked next", report(4), WEIGHTS)
    names = sorted(each.name for each in spool.folder.iterdir())
    assert names == ["round-0004.safetensors", "second-0004.safetensors"]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("lost", [damage, Path.unlink])
@pytest.mark.parametrize("which", ["round", "second"])
def test_one_damaged_file_loses_no_update(
    which: str, lost: Callable[[Path], None], spool: Spool
) -> None:
    spool.write("asked", report(3), WEIGHTS)
    lost(spool.folder / f"{which}-0003.safetensors")
    assert spool.holds(3)
    found = spool.find("asked")
    assert found is not None and torch.equal(found[1]["w"], WEIGHTS["w"])
    spool.settle(told(4))
    assert not list(spool.folder.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="a file of Linux's that cannot be read")
def test_a_file_that_the_disk_cannot_read_loses_no_update(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that maps such a file is killed as it reads."""
    spool.write("asked", report(3), WEIGHTS)
    first = spool.folder / "round-0003.safetensors"
    first.unlink()
    first.symlink_to("/proc/self/mem")
    assert spool.find("asked") is not None
    assert "Input/output error" in caplog.text


def test_an_update_of_which_nothing_is_whole_is_not_found(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.write("asked", report(3), WEIGHTS)
    for path in spool.folder.iterdir():
        damage(path)
    assert spool.find("asked") is None
    assert caplog.text.count("a copy of a finished update is lost") == 2
    assert "trained again" in caplog.text


def test_a_disk_with_room_for_one_keeps_one(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool.write("asked before", report(3), {"w": torch.zeros(1)})

    def full(_: Path, part: Path) -> None:
        part.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feat_fed_client.spool.shutil.copy", full)
    assert spool.write("asked", report(3), WEIGHTS)
    assert "no second" in caplog.text
    assert spool.find("asked") is not None
    assert not [each for each in spool.folder.iterdir() if each.name.startswith(".")]


def test_a_full_disk_is_told_loudly_and_costs_no_update(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feat_fed.tensor_file.save_file", full)
    assert not spool.write("asked", report(3), WEIGHTS)
    assert "No space left on device" in caplog.text
    assert not list(spool.folder.iterdir())


def test_others_get_the_room_that_is_left(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    little = SimpleNamespace(free=1000)
    monkeypatch.setattr("feat_fed_client.spool.shutil.disk_usage", lambda _: little)
    assert spool.write("asked", report(3), WEIGHTS)
    assert "little room left" in caplog.text
    assert [each.name for each in spool.folder.iterdir()] == ["round-0003.safetensors"]


def test_what_a_killed_writer_left_goes(spool: Spool) -> None:
    spool.write("asked", report(3), WEIGHTS)
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    left = spool.folder / f".round-0003.{gone}-0badf00d.safetensors"
    others = spool.folder / f".round-0003.{os.getppid()}-0badf00d.safetensors"
    left.touch()
    others.touch()
    spool.settle(told(3))
    assert not left.exists()
    assert others.exists()


def test_other_studies_leftovers_go_after_a_month(tmp_path: Path) -> None:
    for study in (STUDY, OTHER):
        Spool.of(tmp_path, study_id=study).write("asked", report(3), WEIGHTS)
    tidy(tmp_path, study_id=STUDY)
    assert len(list((tmp_path / "spool").iterdir())) == 2
    long_ago = tmp_path.stat().st_mtime - (KEEP_DAYS + 1) * 86400
    for each in (tmp_path / "spool").rglob("*"):
        os.utime(each, (long_ago, long_ago))
    tidy(tmp_path, study_id=STUDY)
    assert [each.name for each in (tmp_path / "spool").iterdir()] == [STUDY]


def test_a_server_that_names_many_studies_fills_no_disk(tmp_path: Path) -> None:
    for number, name in enumerate("bcde"):
        for kind in ("spool", "rounds", "optimiser"):
            path = tmp_path / kind / (name * 32) / "file"
            path.parent.mkdir(parents=True)
            path.touch()
            at = tmp_path.stat().st_mtime + 60 * number
            os.utime(path, (at, at))
    Spool.of(tmp_path, study_id=STUDY).write("asked", report(3), WEIGHTS)
    tidy(tmp_path, study_id=STUDY)
    for kind, own in (("spool", [STUDY]), ("rounds", []), ("optimiser", [])):
        left = sorted(each.name for each in (tmp_path / kind).iterdir())
        assert left == [*own, "d" * 32, "e" * 32]


def test_all_that_was_learnt_can_be_forgotten(tmp_path: Path) -> None:
    Spool.of(tmp_path, study_id=STUDY).write("asked", report(3), WEIGHTS)
    round_files.under_way(tmp_path, study_id=STUDY, job="x").path.parent.mkdir(parents=True)
    (tmp_path / "latents").mkdir()
    assert forget_rounds(tmp_path) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["latents"]


def test_a_round_under_way_on_several_devices_keeps_its_files(tmp_path: Path) -> None:
    training = tmp_path / "training"
    with exchange_in(training) as living:
        dead, job = training / "round-0badf00d", living.folder / "job.json"
        dead.mkdir()
        for each in (job, dead / "job.json", training / "worker-0.log"):
            each.touch()
        tidy(tmp_path, study_id=STUDY)
        assert (dead.exists(), job.exists()) == (False, True)
        dead.mkdir()
        (dead / "job.json").touch()
        assert forget_rounds(tmp_path) == 2
        assert (dead.exists(), job.exists()) == (False, True)
    assert [each.name for each in training.iterdir()] == [".lock"]


def test_what_goes_while_it_is_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool.of(tmp_path, study_id=STUDY).write("asked", report(3), WEIGHTS)
    unlink = os.unlink

    def twice(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        unlink(path, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", twice)
        assert forget_rounds(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []
