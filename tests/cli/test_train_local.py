"""``feat-fed train-local``: the site's own training as a run, gone on with after a stop."""

import logging
from pathlib import Path

import pytest
import yaml

from feat_fed.cli.main import run_app
from feat_fed.data.inventory.identity import KEY_FILE
from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.model import read_weights
from feat_fed.report import RunStore
from feat_fed.report.live import SiteLive
from feat_fed_client.pause import begin_pause, end_pause
from feat_fed_client.session import SiteSession

STUDY = {
    "name": "tiny",
    "rounds": 2,
    "seed": 3,
    "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
    "clips": {"frames": 2, "size_px": 32},
    "training": {
        "engine": "torch",
        "local_steps": 6,
        "batch_size": 2,
        "learning_rate": 0.01,
        "heldout_clips": 2,
        "optimiser_state": "kept",
    },
    "sampler": {"kind": "ddim", "steps": 2, "num_clips": 1},
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a site's file, a study's, and clips."""
    folder = tmp_path_factory.mktemp("hospital")
    (data,) = write_demo_hospitals(
        folder / "data", hospitals=1, patients_per_hospital=3, clips_per_patient=1
    ).values()
    site = {
        "name": "hospital-a",
        "data": {
            "paths": [str(path) for path in data.paths],
            "rules": data.rules.model_dump(mode="json"),
        },
        "store": "store",
        "compute": {"threads": 1, "device": "cpu", "micro_batch": 1},
    }
    (folder / "store").mkdir()
    (folder / "store" / KEY_FILE).write_bytes(b"k" * 32)  # decides who is held out
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


def train_local(hospital: Path, runs: Path, *more: object) -> int:
    arguments = (
        *("train-local", "--site-config", hospital / "site.yaml"),
        *("--study", hospital / "study.yaml", "--runs", runs, *more),
    )
    return run_app([str(each) for each in arguments])


@pytest.fixture(scope="module")
def whole(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    runs = tmp_path_factory.mktemp("runs")
    assert train_local(hospital, runs) == 0
    return RunStore(runs / "tiny-hospital-a")


def test_it_leaves_a_run_like_a_federated_one(whole: RunStore) -> None:
    summary, rounds = whole.summary(), whole.rounds()
    assert (summary.state, summary.rounds_done) == ("complete", 2)
    assert [each.round for each in rounds] == [1, 2]
    assert all(each.sites[0].steps == 6 and each.sites[0].examples > 0 for each in rounds)
    assert summary.final_heldout_loss is not None
    assert rounds[0].heldout_loss is not None
    assert summary.final_heldout_loss < rounds[0].heldout_loss
    assert whole.report.exists()
    assert run_app(["report", "--run", str(whole.root)]) == 0
    assert run_app(["sample", "--run", str(whole.root), "-n", "1", "--steps", "2"]) == 0
    assert "hospital-a" in whole.report.read_text()


def test_a_run_that_was_cut_ends_with_the_bytes_of_one_that_was_not(
    whole: RunStore, hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = SiteSession._train

    def dies_after_training(session: SiteSession, assignment, *rest):  # type: ignore[no-untyped-def]
        trained = train(session, assignment, *rest)
        if assignment.round == 2:
            raise KeyboardInterrupt
        return trained

    monkeypatch.setattr(SiteSession, "_train", dies_after_training)
    assert train_local(hospital, tmp_path) == 130
    cut = RunStore(tmp_path / "tiny-hospital-a")
    assert (cut.summary().state, cut.summary().rounds_done) == ("interrupted", 1)
    monkeypatch.undo()
    assert train_local(hospital, tmp_path) == 0
    assert cut.summary().state == "complete"
    for file in ("checkpoint", "ema"):
        ours, theirs = (read_weights(getattr(run, file)(2)).tensors for run in (cut, whole))
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert cut.rounds()[1].train_loss == whole.rounds()[1].train_loss


def test_its_log_is_in_the_run_and_no_handler_stays(whole: RunStore) -> None:
    assert (whole.logs / "train-local.log").exists()
    assert not logging.getLogger("feat_fed").handlers


def test_a_paused_site_waits_and_its_traffic_is_no_matter(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = yaml.safe_load((hospital / "site.yaml").read_text())
    site = hospital / "limited.yaml"
    site.write_text(yaml.safe_dump(tree | {"limits": {"gb_per_round": 1e-6}}))
    begin_pause(hospital / "store", None)
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if line == "waiting: the site is paused until it is resumed":
            live = SiteLive.read(hospital / "store" / "live.json")
            assert live is None or live.phase == "idle"  # nothing was begun
            end_pause(hospital / "store")

    monkeypatch.setattr("feat_fed.cli.train_local.say", say)
    monkeypatch.setattr("feat_fed_client.session._WAIT_SEC", 0.01)
    assert train_local(hospital, tmp_path, "--site-config", site, "--rounds", 1) == 0
    assert sum("waiting" in line for line in told) == 1
    assert RunStore(tmp_path / "tiny-hospital-a").summary().state == "complete"


def test_a_pause_within_a_round_ends_it_early_and_the_next_one_waits(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SiteLive.write

    def pause_at_four(live: SiteLive, path: Path) -> None:
        if (live.phase, live.round, live.step) == ("training", 1, 4):
            begin_pause(hospital / "store", None)
        if live.phase == "waiting":
            assert live.round == 2
            end_pause(hospital / "store")
        write(live, path)

    monkeypatch.setattr(SiteLive, "write", pause_at_four)
    monkeypatch.setattr("feat_fed_client.session._LIVE_EVERY_SEC", 0.0)
    monkeypatch.setattr("feat_fed_client.session._WAIT_SEC", 0.01)
    assert train_local(hospital, tmp_path) == 0
    sites = [each.sites[0] for each in RunStore(tmp_path / "tiny-hospital-a").rounds()]
    assert [(each.steps, each.planned_steps, each.ended_by) for each in sites] == [
        (4, 6, "pause"),
        (6, 6, "steps"),
    ]
    report = (tmp_path / "tiny-hospital-a" / "report.html").read_text()
    assert "4 of 6 steps: the site was paused" in report


def test_a_wrong_site_file_is_one_message(
    tmp_path: Path, hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(
        "name: a\ndata: {paths: [x]}\nstore: s\ncompute: {micro_batch: 0}\n"
    )
    arguments = ("--site-config", tmp_path / "site.yaml", "--study", hospital / "study.yaml")
    assert run_app(["train-local", *map(str, arguments), "--runs", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "micro_batch" in told
    assert "Traceback" not in told
    assert not (tmp_path / "tiny-a").exists()
