"""A backup that is taken at any moment of a study becomes a run that ends with the same bytes."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.task_identity import TaskIdentity

from fake_sites import STUDY, honest, run
from feat_fed.archive import read_contents
from feat_fed.audit import FOLDER, verify
from feat_fed.cli.main import run_app
from feat_fed.config import StudyConfig
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest
from feat_fed.train import run_backup
from feat_fed.train.run_backup import back_up_run, require_whole, restore_run
from feat_fed.train.run_state import restore
from feat_fed_server import asking
from feat_fed_server.roster import KeyRoster

SITES = {"a": honest("a", 0.5, examples=3), "b": honest("b", -0.25, examples=2)}
CHANGES = {
    "rounds": 2,
    "strategy": {"kind": "fedadam"},
    "sites": {"minimum": 2, "round_sec": 60},
    "transfer": {"down": "int8"},
}


def new_run(root: Path) -> RunStore:
    store = RunStore.create(root, StudyConfig.model_validate(STUDY.model_dump() | CHANGES))
    KeyRoster({name.encode(): name for name in SITES}).save(store.roster)
    return store


def weights_of(root: Path) -> dict[str, str]:
    """Every tensor file's digest; safetensors orders its metadata by chance."""
    return {each.name: read_digest(each) for each in (root / "checkpoints").glob("*.safetensors")}


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds, which was never disturbed."""
    root = tmp_path_factory.mktemp("complete") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        patch.setattr(asking, "POLL_SEC", 0.01)
        patch.setattr(os, "fsync", lambda _: None)
        run(new_run(root), SITES)
    return root


@pytest.fixture
def backup(complete: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.tar"
    back_up_run(complete, path, tell=quiet)
    return path


def test_a_backup_at_any_change_on_the_disk_goes_on_to_the_same_weights(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudyLive, "write", lambda *_: None)
    root, backups = tmp_path / "run", list[Path]()
    store = new_run(root)
    looking = False

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal looking
            if not looking and store.manifest(0).exists():
                looking = True
                backups.append(tmp_path / f"{len(backups)}.tar")
                back_up_run(root, backups[-1], tell=pytest.fail)
                looking = False
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", watched(Path.replace))
        run(store, SITES)
    assert len(backups) > 15
    rounds = []
    for path in backups:
        rounds.append(restore_run(path, tmp_path / path.stem).round)
        assert not verify(tmp_path / path.stem / FOLDER).problems
    assert rounds == sorted(rounds) and set(rounds) == {0, 1, 2}
    # Of each round the first, and the last before the next one is done.
    for number in (0, rounds.index(1), rounds.index(2) - 1):
        again = tmp_path / str(number)
        run(RunStore(again), SITES)
        assert weights_of(again) == weights_of(complete), f"backup {number}"


def test_a_round_that_the_rotation_takes_meanwhile_is_left_out(
    complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(shutil.copytree(complete, tmp_path / "run"))

    def rotated(_: RunStore, number: int) -> None:
        require_whole(store, number)
        if number == 1:
            for path in store.files_of(1):
                path.unlink(missing_ok=True)

    monkeypatch.setattr(run_backup, "require_whole", rotated)
    assert back_up_run(store.root, tmp_path / "run.tar", tell=pytest.fail) == 2
    assert restore_run(tmp_path / "run.tar", tmp_path / "restored").round == 2
    assert RunStore(tmp_path / "restored").done_rounds() == [0, 2]


def test_a_restored_run_says_so_and_holds_no_sites_update_and_no_log(
    complete: Path, tmp_path: Path
) -> None:
    complete = shutil.copytree(complete, tmp_path / "copy")
    (complete / "inbox" / "round-0004").mkdir(parents=True, exist_ok=True)
    (complete / "inbox" / "round-0004" / "a.safetensors").write_bytes(b"a site's own update")
    (complete / "evaluation" / "features").mkdir(parents=True, exist_ok=True)
    (complete / "evaluation" / "features" / "real.npz").write_bytes(b"of real videos")
    (complete / "evaluation" / "metrics.jsonl").write_bytes(b"")
    (complete / "logs" / "serverapp.log").write_text("a log")
    (complete / "flower").mkdir(exist_ok=True)
    (complete / "flower" / "executor.secret").write_text("a secret")
    second = tmp_path / "second.tar"
    back_up_run(complete, second, tell=quiet)
    names = set(read_contents(second).files)
    assert "evaluation/metrics.jsonl" in names and "metrics.jsonl" in names
    folders = {name.split("/")[0] for name in names}
    assert not folders & {"inbox", "logs", "flower"} and "evaluation/features/real.npz" not in names
    assert second.stat().st_mode & 0o077 == 0
    to = tmp_path / "restored" / "run"
    assert run_app(["restore", str(second), str(to)]) == 0
    store = RunStore(to)
    assert weights_of(to) == weights_of(complete)
    assert store.logs.is_dir() and store.samples.is_dir()
    assert "restored from a backup of" in store.summary().warnings[-1]
    last = (to / FOLDER / "000001.jsonl").read_bytes().splitlines()[-1]
    event = json.loads(last)["event"]
    assert (event["kind"], event["after_round"]) == ("run-restored", 2)
    assert not verify(to / FOLDER).problems
    assert sorted(each.name for each in to.parent.iterdir()) == [".run.run.lock", "run"]


def test_nothing_that_is_there_is_replaced(
    complete: Path, backup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["backup", str(complete), str(backup)]) == 1
    assert "replaces nothing" in capsys.readouterr().err
    before = weights_of(complete)
    assert run_app(["restore", str(backup), str(complete)]) == 1
    assert "replaces nothing" in capsys.readouterr().err
    assert weights_of(complete) == before
    assert run_app(["backup", str(complete), str(tmp_path), "--private-keys"]) == 1
    assert run_app(["backup", str(complete), str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("run-*T*Z.tar"))) == 1
    assert run_app(["backup", str(tmp_path), str(tmp_path / "no.tar")]) == 1
    assert not (tmp_path / "no.tar").exists()


def test_a_damaged_round_is_left_out_and_told_and_no_round_at_all_is_an_error(
    complete: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(complete, tmp_path / "run")
    store = RunStore(copy)
    newest = store.checkpoint(2)
    content = bytearray(newest.read_bytes())
    content[-7] ^= 1
    newest.write_bytes(content)
    assert run_app(["backup", str(copy), str(tmp_path / "one.tar")]) == 0
    assert "round 2 is left out, for it is damaged" in " ".join(capsys.readouterr().err.split())
    assert read_contents(tmp_path / "one.tar").round == 1
    for number in store.done_rounds():
        store.manifest(number).unlink()
    assert run_app(["backup", str(copy), str(tmp_path / "two.tar")]) == 1
    assert "no round that is done" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "two.tar").exists()


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        ({"central": {"noise_multiplier": 1.0}}, "lower the study's rounds by their number"),
        ({"secure_aggregation": {}}, "no round be unmasked twice"),
    ],
    ids=["central", "secure-aggregation"],
)
def test_what_an_old_backup_means_for_privacy_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], privacy: dict[str, Any], told: str
) -> None:
    changes = {"strategy": {"weigh_by": "equal"}, "privacy": privacy, "sites": {"minimum": 3}}
    study = StudyConfig.model_validate(STUDY.model_dump() | changes)
    store = RunStore.create(tmp_path / "run", study)
    restore(store)  # with which round 0 is done
    assert run_app(["backup", str(store.root), str(tmp_path / "run.tar")]) == 0
    assert run_app(["restore", str(tmp_path / "run.tar"), str(tmp_path / "again")]) == 0
    assert told in " ".join(capsys.readouterr().err.split())
