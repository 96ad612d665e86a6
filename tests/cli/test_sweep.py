"""``feat-fed sweep``: one line each, and what is there is not done again."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from feat_fed.cli import sweep as sweep_module
from feat_fed.cli.main import run_app
from feat_fed.report import RunStore
from report.test_html import Page

# Stands for `feat-fed simulate`: the run that it would leave, without training.
SIMULATE = """
import sys
from pathlib import Path
from feat_fed.config import load_study
from feat_fed.report import RoundRecord, RunStore, SiteRound
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
study = load_study(arguments["--study"])
root = Path(arguments["--runs"]) / arguments["--run"]
print("called")
if study.seed == 13:
    print("error: seed 13 brings no luck", flush=True)
    sys.exit(1)
if (root / "study.yaml").exists():
    sys.exit(0)
store = RunStore.create(root, study)
for number in range(1, study.rounds + 1):
    part = SiteRound(site="a", status="ok", bytes_up=1_000_000, bytes_down=2_000_000)
    store.append(RoundRecord(
        round=number, started_at="2026-01-31T12:00:00+00:00", seconds=4.5, train_loss=1.0,
        heldout_loss=1 / number, sites=(part,),
    ))
loss = 0.25 if study.training.proximal_mu else 0.5
store.report.touch()
(root / "simulation.yaml").write_text(Path(arguments["--scenario"]).read_text())
done = {"state": "complete", "rounds_done": study.rounds, "final_heldout_loss": loss}
store.write_summary(store.summary().model_copy(update=done))
"""

SWEEP = """
name: trial
rounds: 2
variations:
  plain: {}
  unlucky: {seed: 13}
  prox: {training.proximal_mu: 0.01}
  private: {privacy.patient: {noise_multiplier: 1.0}, strategy.weigh_by: equal}
"""


NAMES = ("plain", "unlucky", "prox", "private")


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sweep_module, "SIMULATE", (sys.executable, "-c", SIMULATE))
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return ["sweep", str(path), "--runs", str(tmp_path / "runs")]


def rows(root: Path) -> dict[str, dict[str, str]]:
    with (root / "sweep.csv").open(newline="") as file:
        return {row["variation"]: row for row in csv.DictReader(file)}


def test_a_sweep_tells_each_and_goes_on_after_one_that_fails(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "trial"
    assert run_app(sweep) == 1
    told = capsys.readouterr().err
    assert "plain: held-out loss 0.5000  9.0 s  6 MB" in told
    assert "unlucky: failed: seed 13 brings no luck" in told
    assert "prox: held-out loss 0.2500" in told
    assert "of each patient" in told
    assert "1 of 4 variations are not complete: unlucky" in told
    assert "Traceback" not in told
    found = rows(root)
    assert list(found) == ["plain", "unlucky", "prox", "private"]
    assert (found["prox"]["heldout_loss"], found["prox"]["megabytes"]) == ("0.25", "6.0")
    assert found["prox"]["changes"] == "training.proximal_mu: 0.01"
    assert found["unlucky"]["state"] == "failed" and found["unlucky"]["heldout_loss"] == ""
    assert float(found["private"]["patient_epsilon"]) > 1
    page = Page(root / "sweep.html")
    assert "4 of 4 variations" in page.words and "✕ failed: seed 13 brings no luck" in page.words
    assert "0.2500 lowest" in page.words
    assert {"prox/report.html"} < {link["href"] for tag, link in page.tags if tag == "a"}


def test_what_is_complete_stays_and_what_failed_is_tried_again(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs" / "trial"
    assert run_app(sweep) == 1
    plain = (root / "plain" / "study.yaml").stat().st_mtime_ns
    path = Path(sweep[1])
    path.write_text(SWEEP.replace("seed: 13", "seed: 14"))
    capsys.readouterr()
    assert run_app(sweep) == 0
    assert "failed" not in capsys.readouterr().err
    assert (root / "plain" / "study.yaml").stat().st_mtime_ns == plain
    calls = {name: (root / "sweep.d" / f"{name}.log").read_text().count("called") for name in NAMES}
    assert calls == {"plain": 1, "unlucky": 2, "prox": 1, "private": 1}
    assert RunStore(root / "unlucky").study.seed == 14
    assert {row["state"] for row in rows(root).values()} == {"complete"}


def test_a_run_of_another_study_is_told_and_left_alone(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(sweep) == 1
    path = Path(sweep[1])
    path.write_text(SWEEP.replace("seed: 13", "seed: 14").replace("mu: 0.01", "mu: 0.02"))
    capsys.readouterr()
    assert run_app(sweep) == 1
    assert "prox: failed" in (told := " ".join(capsys.readouterr().err.split()))
    assert "is a run of another study" in told and "0.01 in the run, 0.02 asked" in told
    assert RunStore(tmp_path / "runs" / "trial" / "prox").study.training.proximal_mu == 0.01


def test_a_mistake_in_the_file_runs_nothing(sweep: list[str], tmp_path: Path) -> None:
    Path(sweep[1]).write_text(SWEEP.replace("proximal_mu", "proximal_nu"))
    assert run_app(sweep) == 1
    assert not (tmp_path / "runs").exists()
