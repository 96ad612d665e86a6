from collections.abc import Callable
from pathlib import Path

import pytest

from feat_fed.audit import lines
from feat_fed.config import EvaluationConfig, load_study
from feat_fed.errors import ChildError, FederationError, RunError
from feat_fed.processes import ChildGroup, free_port
from feat_fed.report.run_store import RunStore
from feat_fed_server import launch
from feat_fed_server.certificates import TlsFiles
from feat_fed_server.launch import StudyLauncher
from feat_fed_server.study_processes import FaultError, StudyProcesses
from system.study_runs import TINY

Look = Callable[[RunStore], bool | None]


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", load_study(TINY))


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TlsFiles, "require", lambda self: None)
    monkeypatch.setattr(StudyProcesses, "start", lambda self: None)
    monkeypatch.setattr(launch, "_PAUSE_SEC", 0.0)


def launched(store: RunStore, monkeypatch: pytest.MonkeyPatch, *looks: Look) -> list[str]:
    """Run a study whose processes look like this, one after the other; return what is told."""
    told: list[str] = []
    left = list(looks)
    monkeypatch.setattr(StudyProcesses, "look", lambda self: left.pop(0)(store))
    tls = TlsFiles(store.root)
    StudyLauncher(store, f"127.0.0.1:{free_port()}", tls, {b"k": "a"}, told.append).run()
    assert not left
    return told


def fault(store: RunStore) -> bool | None:
    raise FaultError("the SuperLink has ended (SIGKILL); its log is x\nlast words", "superlink")


def round_done(store: RunStore) -> bool | None:
    summary = store.summary()
    store.write_summary(summary.model_copy(update={"rounds_done": summary.rounds_done + 1}))
    return None


def complete(store: RunStore) -> bool | None:
    return True


def failed(store: RunStore) -> bool | None:
    message = {"state": "failed", "message": "1 of the 2 sites that the study needs came"}
    store.write_summary(store.summary().model_copy(update=message))
    return False


def test_a_study_goes_on_after_faults(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    told = launched(store, monkeypatch, round_done, fault, complete)
    [line] = [each for each in told if "SIGKILL" in each]
    assert line.endswith("its log is x; starting it again, to go on with round 2")
    restarts = [line.event for line in lines(store.root / "audit")][1:]
    assert restarts == [{"kind": "process-restarted", "process": "superlink"}]


def test_rounds_between_faults_are_what_counts(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(store, monkeypatch, *[fault] * 5, *[round_done, fault] * 6, complete)


def test_faults_without_a_round_in_between_end_it(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChildError, match=r"last words\nit was the 6th time.*same command"):
        launched(store, monkeypatch, *[fault] * 6)


def test_a_study_that_fails_is_not_started_again(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FederationError, match="1 of the 2 sites"):
        launched(store, monkeypatch, fault, failed)


def test_what_an_earlier_one_said_does_not_count(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed(store)
    launched(store, monkeypatch, complete)
    assert (store.summary().state, store.summary().message) == ("running", "")


def test_a_folder_that_cannot_be_written_ends_it(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunStore, "write_summary", full)
    with pytest.raises(RunError, match=r"No space left.*same command"):
        launched(store, monkeypatch, complete)


def test_an_evaluator_that_cannot_live_does_not_harm_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    study = load_study(TINY).model_copy(update={"evaluation": EvaluationConfig()})
    store = RunStore.create(tmp_path / "measured", study)
    monkeypatch.setattr(ChildGroup, "start", full)
    told = launched(store, monkeypatch, round_done, fault, complete)
    assert any(line.startswith("the evaluator is given up") for line in told)
