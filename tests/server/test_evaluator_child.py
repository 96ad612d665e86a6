"""The evaluator beside a study: nothing that happens to it is felt there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import psutil
import pytest

from feat_fed.config import EvaluationConfig, load_study
from feat_fed.evaluator import HOPELESS
from feat_fed.evaluator import __main__ as real
from feat_fed.processes import Child, ChildGroup
from feat_fed.report.run_store import RunStore
from feat_fed_server import evaluator_child
from feat_fed_server.evaluator_child import EvaluatorChild
from system.study_runs import TINY
from waiting import nobody_left, wait_until

Stand = Callable[[str], list[Child]]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator_child, "_PAUSES_SEC", (0.0,) * 5)
    monkeypatch.setattr(evaluator_child, "_LOOK_SEC", 0.01)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Put a shell's line in the evaluator's place; return a list of those that were started."""

    def put(line: str) -> list[Child]:
        started: list[Child] = []

        def start(self: EvaluatorChild, group: ChildGroup) -> Child:
            log_file = self._store.logs / "evaluator.log"
            started.append(group.start("the evaluator", ["sh", "-c", line], log_file=log_file))
            return started[-1]

        monkeypatch.setattr(EvaluatorChild, "_started", start)
        return started

    return put


def store_of(tmp_path: Path, **evaluation: object) -> RunStore:
    config = EvaluationConfig.model_validate({"folder": tmp_path, **evaluation})
    study = load_study(TINY).model_copy(update={"evaluation": config})
    return RunStore.create(tmp_path / "run", study)


def test_without_evaluation_or_with_one_by_hand_nothing_is_started(
    tmp_path: Path, stand_in: Stand
) -> None:
    started = stand_in("exit 1")
    by_hand = store_of(tmp_path, with_server=False)
    for store in (by_hand, RunStore.create(tmp_path / "plain", load_study(TINY))):
        with EvaluatorChild(store, pytest.fail) as child:
            child.finish()
    assert not started


def test_one_that_has_no_hope_is_not_started_again(tmp_path: Path, stand_in: Stand) -> None:
    started = stand_in("echo evaluation.folder is missing; exit 2")
    told: list[str] = []
    with EvaluatorChild(store_of(tmp_path), told.append) as child:
        assert child._over.wait(20)
        child.finish()
    [line] = told
    assert len(started) == 1
    assert line.startswith("the study goes on without its evaluator: evaluation.folder is missing")
    assert f"evaluate --watch --run {tmp_path / 'run'}` measures what is left" in line


def test_one_that_dies_is_started_again_and_at_last_given_up(
    tmp_path: Path, stand_in: Stand
) -> None:
    started = stand_in("kill -9 $$")
    told: list[str] = []
    with EvaluatorChild(store_of(tmp_path), told.append) as child:
        assert child._over.wait(20)
    assert len(started) == 6
    assert told[0].startswith("the evaluator has ended (SIGKILL)")
    assert told[-1].startswith("the study goes on without its evaluator: SIGKILL")


def test_one_that_measured_in_between_is_not_given_up(
    tmp_path: Path, stand_in: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stand_in("exit 1")
    monkeypatch.setattr(EvaluatorChild, "_num_measured", lambda self: min(len(started), 8))
    with EvaluatorChild(store_of(tmp_path), lambda _: None) as child:
        assert child._over.wait(30)
    assert len(started) == 8 + 5


def test_it_is_ended_with_the_study(tmp_path: Path, stand_in: Stand) -> None:
    started = stand_in("sleep 6000 & wait")
    with EvaluatorChild(store_of(tmp_path), lambda _: None):
        wait_until(lambda: started and started[0].is_at_work())
        family = psutil.Process(started[0].process.pid).children(recursive=True)
    assert started[0].process.poll() is not None
    nobody_left(family)


def test_a_complete_study_waits_for_it_within_a_bound(tmp_path: Path, stand_in: Stand) -> None:
    stand_in("sleep 1.5")
    told: list[str] = []
    with EvaluatorChild(store_of(tmp_path), told.append) as child:
        child.finish()
        assert child._over.is_set()
    assert told == ["rounds are still being measured; waiting 10 minutes at most"]
    stand_in("sleep 60")
    slow = store_of(tmp_path / "slow", finish_minutes=0)
    began = time.monotonic()
    with EvaluatorChild(slow, told.append) as child:
        child.finish()
    assert time.monotonic() - began < 30
    assert told[-1].startswith("not all rounds are measured yet: `feat-fed evaluate --watch")


def test_what_cannot_even_be_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Child:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(ChildGroup, "start", full)
    told: list[str] = []
    with EvaluatorChild(store_of(tmp_path), told.append) as child:
        assert child._over.wait(20)
    assert told[0].startswith("the evaluator is given up")


def test_the_real_one_tells_what_has_no_hope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("step_back", "signal"):
        monkeypatch.setattr(real, name, MagicMock())
    assert real.main(store_of(tmp_path, folder=None).root) == HOPELESS
    assert "evaluation.folder is missing" in caplog.text
    assert real.main(tmp_path) == 1
    assert "is not a run" in caplog.text
