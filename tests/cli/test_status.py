"""``feat-fed status``, of a run and of a site."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from feat_fed.audit import AuditLog
from feat_fed.audit.events import SiteChanged
from feat_fed.cli.main import run_app
from feat_fed.cli.run_status import run_metrics, run_status
from feat_fed.cli.site_status import site_metrics
from feat_fed.config import StudyConfig, load_site
from feat_fed.metrics import exposition
from feat_fed.protocol import Report
from feat_fed.report import RoundRecord, RunStore, SiteRound
from feat_fed.report.live import SiteLive, StudyLive
from feat_fed.report.records import CentralSpending, SiteEpsilon
from feat_fed.report.run_store import lock_run
from feat_fed_client.history import note_report
from feat_fed_server.roster import KeyRoster
from feat_fed_server.site_orders import SiteOrders
from measured_runs import evaluation_of, write_evaluations

SEEN = 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    tree = {"name": "tiny", "rounds": 5, "model": {"in_channels": 6}}
    study = StudyConfig.model_validate(tree)
    store = RunStore.create(tmp_path / "runs" / "first", study)
    for number, outcome in ((1, "ok"), (2, "refused")):
        good = {"examples": 40, "version": "0.1.0", "bytes_up": 1000} if outcome == "ok" else {}
        reason = "" if outcome == "ok" else "a tensor is not finite"
        sites = (
            SiteRound(site="a", status="ok", examples=7, bytes_down=2000, bytes_up=1000),
            SiteRound.model_validate(
                {"site": "b", "status": outcome, "reason": reason, "bytes_down": 2000} | good
            ),
        )
        store.append(
            RoundRecord(
                round=number,
                started_at="2026-01-31T12:00:00+00:00",
                seconds=75,
                train_loss=0.5,
                heldout_loss=0.25,
                sites=sites,
            )
        )
    store.write_summary(store.summary().model_copy(update={"rounds_done": 2}))
    StudyLive(
        phase="training",
        round=3,
        rounds=5,
        connected=("a",),
        missing=("b", "c"),
        replied=("a",),
        declined={},
        deadline=time.time() + 90,
    ).write(store.live)
    audit = AuditLog.of_run(store.root, "tiny", "0" * 32)
    audit.append(SiteChanged(kind="site-left", site="b"))
    return store


def status(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run_app(["status", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_run_that_goes_on(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    KeyRoster({name.encode(): name for name in "abc"}).save(store.roster)
    SiteOrders().excluding("c").write(store.root)
    with lock_run(store.root), lock_run(store.root, "rounds"):
        told = status(capsys, "--run", store.root)
        found = json.loads(status(capsys, "--run", store.root, "--json"))
    assert "tiny (" in told and "): running" in told
    assert "rounds: 2 of 5 done, the last in 1 min 15 s with a train loss of 0.5000" in told
    assert "now: round 3: training, 1 min" in told
    assert "weights moved: 8 kB to sites, 3 kB from them" in told
    assert "  a: connected, 7 clips, round 2 ok, replied" in told
    assert re.search(r"  b: not here, last seen 20.*\+00:00, feat-fed 0.1.0, 40 clips", told)
    assert "round 2 refused (a tensor is not finite)" in told
    assert "  c: not here, never seen, excluded" in told
    assert "processes: server, round loop" in told
    assert (found["state"], found["round"], found["phase"]) == ("running", 3, "training")
    assert [each["connected"] for each in found["sites"]] == [True, False, False]


def test_a_number_of_clips_that_a_site_does_not_tell_is_not_shown(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"name": "tiny", "rounds": 1, "model": {"in_channels": 6}}
    tree["strategy"] = {"weigh_by": "equal"}
    tree["privacy"] = {"central": {"noise_multiplier": 1}}
    store = RunStore.create(tmp_path / "run", StudyConfig.model_validate(tree))
    sites = tuple(SiteRound(site=a, status="ok", examples=n) for a, n in (("a", 1), ("b", 7)))
    at = "2026-01-31T12:00:00+00:00"
    none = {"train_loss": None, "heldout_loss": None}
    record = {"round": 1, "started_at": at, "seconds": 1, "sites": sites} | none
    store.append(RoundRecord.model_validate(record))
    assert [each.clips for each in run_status(store).sites] == [None, 7]


def test_what_central_privacy_has_spent(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    one = SiteEpsilon(site="a", releases=1, rdp=4.7281, prv=None, patient_rdp=10.31, patient_prv=9)
    two = SiteEpsilon(site="b", releases=2, rdp=12.0, prv=11.2)
    spending = CentralSpending(delta=1e-6, sites=(one, two))
    store.write_summary(store.summary().model_copy(update={"central": spending}))
    told = status(capsys, "--run", store.root)
    assert "epsilon spent so far at delta 1e-06, by RDP (by PRV):" in told
    assert "  a: 4.73 (–) in 1 round; of a patient: 10.4 (9.00)" in told  # noqa: RUF001
    assert "  b: 12.0 (11.2) in 2 rounds; of a patient: unknown, the site does not vouch" in told
    found = json.loads(status(capsys, "--run", store.root, "--json"))
    assert found["central"]["sites"][1]["rdp"] == 12.0
    page = exposition(run_metrics(run_status(store)))
    assert 'feat_fed_central_epsilon{site="b"} 12.0' in page


def test_what_was_measured_last(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluations(store, evaluation_of(1, 500.0), evaluation_of(0, 900.0))
    told = status(capsys, "--run", store.root)
    assert "quality after round 1, by plain on hidden-clips (2026-01-31 13:01 UTC):" in told
    assert "  FVD-random 500.0 (95 %: 450.0 to 550.0), lower is better; few clips" in told
    found = json.loads(status(capsys, "--run", store.root, "--json"))
    assert found["evaluation"]["metrics"][0]["value"] == 500.0
    page = exposition(run_metrics(run_status(store)))
    assert 'feat_fed_quality{metric="FVD-random",protocol="plain"} 500.0' in page
    assert "feat_fed_quality_round 1\n" in page


def test_a_run_whose_server_was_killed(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    told = status(capsys, "--run", store.root)
    assert "): interrupted" in told
    assert "now:" not in told
    assert "not here" not in told and re.search(r"  b: last seen 20", told)
    assert "processes: none" in told


def test_the_servers_processes_are_found_by_their_command_lines(store: RunStore) -> None:
    store.flower.mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    secret = "first/flower/executor.secret"
    with subprocess.Popen(
        [*sleep, "feat_fed_server.superlink", "--secret", secret], cwd=store.root.parent
    ) as process:
        try:
            processes = run_status(store).processes
        finally:
            process.kill()
    assert (processes.superlink, processes.executor) == (True, False)


def test_the_newest_run_is_meant_by_default(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = store.root.parent
    second = RunStore.create(runs / "second", store.study)
    os.utime(store.root / "summary.json", (SEEN, SEEN))
    os.utime(second.root / "summary.json", (SEEN + 1, SEEN + 1))
    assert "second" in status(capsys, "--runs", runs)
    assert run_app(["status", "--runs", str(runs / "none")]) == 1
    assert "there is no run below" in capsys.readouterr().err


def test_a_runs_figures(store: RunStore) -> None:
    with lock_run(store.root):
        told = exposition(run_metrics(run_status(store)))
    assert "feat_fed_rounds_done 2\n" in told
    assert "feat_fed_running 1.0\n" in told
    assert 'feat_fed_loss{split="heldout"} 0.25\n' in told
    assert 'feat_fed_site_connected{site="b"} 0.0\n' in told
    assert 'feat_fed_site_weights_bytes_total{site="a",direction="up"} 2000\n' in told


def test_a_site_by_its_file_and_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = {"name": "hospital-a", "data": {"paths": ["clips"]}, "store": "store"}
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump(tree))
    (tmp_path / "store").mkdir()
    live = SiteLive(phase="training", round=4, step=7, steps=20, loss=0.25)
    live.write(tmp_path / "store" / "live.json")
    report = Report(
        study_id="0" * 32, round=3, task="train", site="hospital-a", outcome="ok", examples=1,
        train_loss=0.5,
    )  # fmt: skip
    note_report(tmp_path / "store", report)
    told = status(capsys, site)
    assert "hospital-a: no client runs" in told
    assert "bundles that may run: 1" in told
    assert run_app(["site", "status", str(site)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == told.splitlines()[0]
    assert run_app(["status", str(site), "--run", "x"]) == 1
    figures = exposition(site_metrics(load_site(site)))
    assert "feat_fed_site_step 7\n" in figures
    assert 'feat_fed_site_loss{split="train"} 0.5\n' in figures
    assert 'feat_fed_site_rounds{outcome="ok"} 1\n' in figures
