from pathlib import Path

import pytest

from feat_fed.config import load_study
from feat_fed.report.run_store import RunStore, is_locked
from feat_fed_server import serverapp_life
from feat_fed_server.serverapp_life import LifeWatch, living
from system.study_runs import TINY


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore.create(tmp_path / "run", load_study(TINY))
    store.flower.mkdir()
    return store


def test_one_that_lives_and_then_ends(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serverapp_life, "_ORDERLY_SEC", 0.0)
    watch = LifeWatch(store)
    assert watch.look() is None and not watch.has_started
    with living(store):
        assert watch.look() is None and watch.has_started
    watch.look()
    assert watch.look() == "ended"


def test_one_that_came_and_went_between_two_looks(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at once, say; Flower needs a minute to notice."""
    monkeypatch.setattr(serverapp_life, "_ORDERLY_SEC", 0.0)
    watch = LifeWatch(store)
    with living(store):
        pass
    watch.look()
    assert watch.look() == "ended" and watch.has_started


def test_one_that_stands_still(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serverapp_life, "_BEAT_SEC", 1000.0)
    monkeypatch.setattr(serverapp_life, "SILENT_SEC", 0.0)
    watch = LifeWatch(store)
    with living(store):
        watch.look()
        assert "stands still" in str(watch.look())
        (store.flower / "serverapp.pulse").touch()
        assert watch.look() is None


def test_one_that_never_starts(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serverapp_life, "STARTING_SEC", 0.0)
    assert "has not started" in str(LifeWatch(store).look())


def test_who_asks_does_not_hold_the_run(store: RunStore) -> None:
    assert not is_locked(store.root)
    with living(store):
        assert is_locked(store.root, "rounds") and not is_locked(store.root)
    assert not is_locked(store.root, "rounds")
