"""What the screen shows of a study, from the files that the processes leave."""

import re
import time
from pathlib import Path

import pytest

from feat_fed.cli.progress import StudyScreen, round_line
from feat_fed.config import load_study
from feat_fed.report import RoundRecord, RunStore, SiteRound
from feat_fed.report.live import SiteLive, StudyLive


@pytest.fixture
def screen(tmp_path: Path) -> StudyScreen:
    store = RunStore.create(tmp_path / "run", load_study("demo"))
    return StudyScreen(store, {"a": tmp_path})


def bar(screen: StudyScreen, site: str) -> tuple[float, str]:
    task = next(each for each in screen._progress.tasks if each.description == site)
    return task.completed, task.fields["note"]


def study(phase: str, number: int, *replied: str) -> StudyLive:
    return StudyLive.model_validate(
        {"phase": phase, "round": number, "rounds": 3, "connected": ["a"], "replied": replied}
    )


def test_a_sites_bar_follows_its_round(screen: StudyScreen, tmp_path: Path) -> None:
    total = load_study("demo").training.local_steps
    screen.update(study("training", 1))
    assert bar(screen, "a") == (0, "connected")
    SiteLive(phase="training", round=1, step=7, steps=total, loss=0.5).write(tmp_path / "live.json")
    screen.update(study("training", 1))
    assert bar(screen, "a") == (7, "training, loss 0.500")
    SiteLive(phase="idle", round=1).write(tmp_path / "live.json")
    screen.update(study("training", 1))
    assert bar(screen, "a") == (total, "sending")
    screen.update(study("training", 1, "a"))
    assert bar(screen, "a") == (total, "replied")
    screen.update(study("training", 2))
    assert bar(screen, "a") == (0, "connected")


def test_a_warning_of_the_run_is_said_once(
    screen: StudyScreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("feat_fed.cli.progress.say", told.append)
    store = RunStore(tmp_path / "run")
    store.write_summary(store.summary().model_copy(update={"warnings": ("round 7 was damaged",)}))
    screen.update(study("training", 1))
    screen.update(study("training", 1))
    assert told == ["warning: round 7 was damaged"]


def test_whom_the_study_waits_for_is_said_once(
    screen: StudyScreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("feat_fed.cli.progress.say", told.append)
    live = StudyLive(
        phase="waiting",
        round=1,
        rounds=3,
        connected=("a",),
        missing=("c",),
        declined={"a": "the site is paused"},
    )
    screen.update(live)
    screen.update(live)
    assert told == ["waiting for c, a (the site is paused)"]
    assert bar(screen, "a") == (0, "the site is paused")
    screen.update(study("training", 1))
    screen.update(live)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("wait_sec", "shown"),
    [(2 * 86400, r"\(until \d{4}-\d\d-\d\d \d\d:\d\d\)"), (0, r":\d\d:\d\d\)")],
)
def test_a_deadline_of_another_day_has_its_date(
    screen: StudyScreen, monkeypatch: pytest.MonkeyPatch, wait_sec: int, shown: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr("feat_fed.cli.progress.say", told.append)
    screen.update(
        StudyLive(
            phase="waiting", round=1, rounds=3, missing=("c",), deadline=time.time() + wait_sec
        )
    )
    assert re.search(shown, told[0])


def test_a_finished_round_is_a_line_with_what_went_wrong() -> None:
    sites = (
        SiteRound(site="a", status="ok", examples=3, train_loss=0.5),
        SiteRound(site="b", status="refused", reason="x is not finite"),
        SiteRound(site="c", status="ok", steps=5, planned_steps=20, ended_by="pause"),
    )
    record = RoundRecord(
        round=2,
        started_at="2026-01-01T00:00:00+00:00",
        seconds=61,
        train_loss=0.5,
        heldout_loss=None,
        sites=sites,
    )
    line = round_line(record, 3)
    assert line.startswith("round 2/3  2/3 sites  train loss 0.5000  held-out loss before it -")
    assert line.endswith("(b refused: x is not finite; c: 5 of 20 steps: the site was paused)")
