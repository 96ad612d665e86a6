"""``feat-fed downstream``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feat_fed.cli.main import run_app
from feat_fed.downstream import experiment
from feat_fed.downstream.results import DownstreamResults
from labelled_clips import write_classes, write_polypdiag

SMALL = "windows: {size_px: 32, num_frames: 2, views: 1}\ntraining: {batch_size: 4, mu: 1}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "small.yaml").write_text(SMALL)
    write_polypdiag(tmp_path / "real", train=3, test=2)
    write_classes(tmp_path / "made", clips=2, first_seed=90)
    return tmp_path


def command(folder: Path, task: str, *arguments: str) -> int:
    return run_app(
        [
            "downstream",
            task,
            *("--data", str(folder / "real"), "--config", str(folder / "small.yaml")),
            *("--steps", "2", "--device", "cpu", "--threads", "1", *arguments),
        ]
    )


def fixmatch(folder: Path, *arguments: str) -> int:
    return command(folder, "fixmatch", "--labelled", "4", *arguments)


def words(text: str) -> str:
    return " ".join(text.split())


def test_fixmatch_tells_what_generated_clips_gain(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "results.json"
    given = ("--generated", str(folder / "made"), "--seeds", "2", "--out", str(out))
    assert fixmatch(folder, *given) == 0
    told = capsys.readouterr()
    for part in (
        "4 real test clips of 4 patients",
        "labelled clips alone",
        "+ generated clips, unlabelled",
        "gain",
        "F1 is of the class 1.",
        "of the pseudo-labels counted at the end",
    ):
        assert part in words(told.out)
    assert "has 4 clips, fewer than 200: all are used" in words(told.err)
    results = DownstreamResults.model_validate_json(out.read_text())
    assert results.complete
    assert [(arm.name, arm.num_labelled, arm.num_unlabelled) for arm in results.arms] == [
        ("supervised", 4, 0),
        ("generated", 4, 4),
    ]
    assert [each.seed for each in results.arms[1].seeds] == [0, 1]
    assert results.config.training.steps == 2
    assert str(folder) not in out.read_text()


def test_results_are_the_same_from_run_to_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def arms() -> Any:
        assert fixmatch(folder, "--arm", "rest", "--seeds", "1", "--seed", "5", "--json") == 0
        tree = json.loads(capsys.readouterr().out)
        for arm in tree["arms"]:
            for each in arm["seeds"]:
                del each["seconds"]
        return tree

    assert arms() == arms()


def test_tstr_sets_real_beside_generated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in (("echo", "0"), ("endoscopy", "1")):
        (folder / "made" / old).rename(folder / "made" / new)
    given = ("--generated", str(folder / "made"), "--seeds", "1")
    assert command(folder, "tstr", *given) == 0
    told = words(capsys.readouterr().out)
    assert "trained on real clips" in told
    assert "trained on generated clips: answers, all seeds together" in told


def test_ctrl_c_keeps_what_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment.train
    calls: Iterator[int] = iter(range(10))

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return whole(*given, **named)

    monkeypatch.setattr(experiment, "train", interrupted)
    out = folder / "results.json"
    given = ("--generated", str(folder / "made"), "--out", str(out))
    assert fixmatch(folder, *given) == 130
    told = capsys.readouterr()
    assert "stopped: 1 of 6 trainings are done" in words(told.err)
    assert "labelled clips alone" in words(told.out)
    results = DownstreamResults.model_validate_json(out.read_text())
    assert not results.complete
    assert [arm.name for arm in results.arms] == ["supervised"]


def test_a_clip_that_cannot_be_read_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "real" / "videos" / "echo-01.mp4").write_bytes(b"no video")
    assert fixmatch(folder) == 1
    told = words(capsys.readouterr().err)
    assert "1 of 6 clips cannot be used" in told
    assert "echo-01.mp4" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--arm", "real"), "--arm real is none of supervised, rest, generated"),
        (("--out", "absent/results.json"), "the folder does not exist"),
        (("--device", "cuda"), "torch finds no CUDA device"),
        (("--config", "absent.yaml"), "absent.yaml does not exist"),
        (("--weights", "absent.pth"), "absent.pth does not exist; correct --weights"),
        (("--generated", "absent"), "absent is not a folder"),
    ],
)
def test_mistakes_are_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert fixmatch(folder, *arguments) == 1
    assert says in words(capsys.readouterr().err)


def test_a_wrong_key_of_the_settings_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "small.yaml").write_text("training: {stepz: 3}\n")
    assert fixmatch(folder) == 1
    assert "stepz" in words(capsys.readouterr().err)
