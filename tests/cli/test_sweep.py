"""``feat-fed sweep``: one line each, and what is there is not done again."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feat_fed.cli import sweep_run
from feat_fed.cli.main import run_app
from feat_fed.report import RunStore
from report.test_html import Page

# Stands for `feat-fed simulate`: the run that it would leave, without training.
SIMULATE = """
import sys
from collections.abc import Callable
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
def run_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path, str], tuple[int, str]]:
    """Return what runs a sweep's text in a folder: exit status and all that was told."""
    monkeypatch.setattr(sweep_run, "SIMULATE", (sys.executable, "-c", SIMULATE))

    def run(folder: Path, text: str) -> tuple[int, str]:
        (folder / "sweep.yaml").write_text(text)
        status = run_app(["sweep", str(folder / "sweep.yaml"), "--runs", str(folder / "runs")])
        return status, " ".join(capsys.readouterr().err.split())

    return run


def rows(root: Path) -> dict[str, dict[str, str]]:
    with (root / "sweep.csv").open(newline="") as file:
        return {row["variation"]: row for row in csv.DictReader(file)}


def test_a_sweep_tells_each_goes_on_and_does_nothing_twice(
    run_sweep: Callable[[Path, str], tuple[int, str]], tmp_path: Path
) -> None:
    root = tmp_path / "runs" / "trial"
    status, told = run_sweep(tmp_path, SWEEP)
    assert status == 1
    for line in (
        "plain: held-out loss 0.5000 rounds took 9.0 s moved 6 MB",
        "unlucky: failed: seed 13 brings no luck",
        "prox: held-out loss 0.2500",
        "of each patient",
        "1 of 4 variations are not complete: unlucky",
    ):
        assert line in told
    assert "Traceback" not in told
    found = rows(root)
    assert tuple(found) == NAMES
    assert (found["prox"]["heldout_loss"], found["prox"]["megabytes"]) == ("0.25", "6.0")
    assert found["prox"]["changes"] == "training.proximal_mu: 0.01"
    assert found["unlucky"]["state"] == "failed" and found["unlucky"]["heldout_loss"] == ""
    assert float(found["private"]["patient_epsilon"]) > 1
    page = Page(root / "sweep.html")
    assert "4 of 4 variations" in page.words and "✕ failed: seed 13 brings no luck" in page.words
    assert "0.2500 lowest" in page.words
    assert "prox/report.html" in {link["href"] for tag, link in page.tags if tag == "a"}

    again = SWEEP.replace("seed: 13", "seed: 14").replace("mu: 0.01", "mu: 0.02")
    status, told = run_sweep(tmp_path, again)
    assert status == 1
    assert "prox: failed" in told and "is a run of another study" in told
    assert "0.01 in the run, 0.02 asked" in told
    assert RunStore(root / "prox").study.training.proximal_mu == 0.01
    assert RunStore(root / "unlucky").study.seed == 14
    calls = {name: (root / "sweep.d" / f"{name}.log").read_text().count("called") for name in NAMES}
    assert calls == {"plain": 1, "unlucky": 2, "prox": 1, "private": 1}
    assert run_sweep(tmp_path, SWEEP.replace("seed: 13", "seed: 14"))[0] == 0
    assert {row["state"] for row in rows(root).values()} == {"complete"}


def test_a_mistake_in_the_file_runs_nothing(
    run_sweep: Callable[[Path, str], tuple[int, str]], tmp_path: Path
) -> None:
    status, told = run_sweep(tmp_path, SWEEP.replace("proximal_mu", "proximal_nu"))
    assert status == 1 and "line 7, variation prox: training.proximal_nu: unknown field" in told
    assert not (tmp_path / "runs").exists()


def test_a_sweep_that_is_stopped_says_where(
    run_sweep: Callable[[Path, str], tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_run, "_one", interrupted)
    status, told = run_sweep(tmp_path, SWEEP)
    assert status == 130 and "stopped in plain; the same command goes on with it" in told
