"""``feat-fed evaluate --watch``: the evaluator by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluated_run import complete, evaluated_run
from feat_fed.cli import evaluation_watch
from feat_fed.cli.main import run_app
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder


@pytest.fixture(autouse=True)
def no_stepping_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_watch, "step_back", lambda _: None)


def said(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str]:
    status = run_app(["evaluate", *map(str, options)])
    return status, " ".join(capsys.readouterr().err.split())


def test_a_complete_run_is_caught_up_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = evaluated_run(tmp_path, rounds=1)
    complete(store)
    status, told = said(capsys, "--watch", "--run", store.root)
    assert status == 0, told
    assert "round 1: FVD-random " in told
    assert f"all that is there of {store.root} is measured" in told


def test_flags_stand_in_for_what_the_study_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = evaluated_run(tmp_path, folder=Path("/not/on/this/machine"))
    flags = ("--folder", tmp_path / "real", "--num-clips", 5)
    assert said(capsys, "--once", "--run", store.root, *flags)[0] == 0
    RunStore.resume(store.root, store.study.model_copy(update={"evaluation": None}))
    flags = (*flags, "--protocol", tmp_path / "quick.yaml")
    assert said(capsys, "--once", "--run", store.root, *flags)[0] == 0
    [found] = EvaluationFolder.of_run(store.root).evaluations()  # the same: not measured again
    assert found.sampler["num_clips"] == 5


def test_what_says_nothing_of_all_rounds_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = evaluated_run(tmp_path)
    assert "give its folder with --run" in said(capsys, "--watch")[1]
    for flags in (("--round", 1), ("--json",), ("--metric", "FVD")):
        status, told = said(capsys, "--watch", "--run", store.root, *flags)
        assert status == 1
        assert f"{flags[0]} says nothing of --watch and --once" in told
    status, told = said(capsys, "--once", "--run", store.root, "--network", "i3d=x")
    assert status == 1
    assert "i3d-torchscript" in told
