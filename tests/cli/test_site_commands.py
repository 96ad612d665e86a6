"""``feat-fed site``: pause, resume, status; and the line that follows a site's work."""

import datetime as dt
import fcntl
import json
import re
from pathlib import Path

import pytest
import yaml

from feat_fed.cli import site_screen
from feat_fed.cli.main import run_app
from feat_fed.cli.site_control import duration, next_time
from feat_fed.cli.site_screen import SiteScreen, live_line, outcome_line
from feat_fed.protocol import Report, Verdict
from feat_fed.report.live import SiteLive
from feat_fed_client.history import note_report, note_verdict
from feat_fed_client.hours import local_now
from feat_fed_client.pause import pause_of


@pytest.fixture
def site(tmp_path: Path) -> Path:
    tree = {"name": "hospital-a", "data": {"paths": ["clips"]}, "store": "store"}
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "store").mkdir()
    return tmp_path / "site.yaml"


def command(*arguments: object) -> int:
    return run_app(["site", *map(str, arguments)])


def status(site: Path, capsys: pytest.CaptureFixture[str]) -> dict:  # type: ignore[type-arg]
    capsys.readouterr()
    assert command("status", site, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


def report(number: int, **changes: object) -> Report:
    fields = {
        "study_id": "0" * 32,
        "round": number,
        "task": "train",
        "site": "hospital-a",
        "outcome": "ok",
        "examples": 3,
        "steps": 12,
        "train_sec": 75.0,
        "train_loss": 0.5,
    }
    return Report.model_validate(fields | changes)


def test_a_pause_and_its_end(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(site, capsys)["paused"] is False
    assert command("pause", site) == 0
    assert "hospital-a is paused until `feat-fed site resume`" in capsys.readouterr().err
    found = status(site, capsys)
    assert (found["paused"], found["paused_until"]) == (True, None)
    assert command("resume", site) == 0
    assert capsys.readouterr().err == "hospital-a is resumed\n"
    assert status(site, capsys)["paused"] is False


def test_a_pause_for_a_time(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("pause", site, "--for", "90m") == 0
    until = dt.datetime.fromisoformat(status(site, capsys)["paused_until"])
    assert dt.timedelta(minutes=89) < until - local_now() < dt.timedelta(minutes=91)
    assert command("pause", site, "--until", f"{until:%H:%M}") == 0
    assert pause_of(site.parent / "store", until + dt.timedelta(minutes=1)) is None


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--for", "2x"], "write 30m, 2h or 1.5d"),
        (["--for", "0h"], "no duration"),
        (["--until", "25:00"], "write 18:00"),
        (["--until", "18:00", "--for", "2h"], "one of the two"),
    ],
)
def test_a_wrong_time_pauses_nothing(
    flags: list[str], told: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("pause", site, *flags) == 1
    assert told in capsys.readouterr().err
    assert not (site.parent / "store" / "paused").exists()


def test_durations_and_times() -> None:
    assert duration("1.5d") == dt.timedelta(hours=36)
    noon = dt.datetime(2026, 6, 1, 12).astimezone()
    assert next_time("18:00", noon) == noon.replace(hour=18)
    assert next_time("12:00", noon) == noon.replace(day=2)


def test_resuming_says_what_still_forbids_training(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = dt.datetime.now()
    begin, end = (f"{now + dt.timedelta(hours=h):%H:%M}" for h in (2, 3))
    tree = yaml.safe_load(site.read_text()) | {"limits": {"hours": [f"{begin}-{end}"]}}
    site.write_text(yaml.safe_dump(tree))
    assert command("resume", site) == 0
    assert f"and still outside of the site's hours ({begin}-{end})" in capsys.readouterr().err
    found = status(site, capsys)
    assert (found["hours"], found["hours_open"]) == (f"{begin}-{end}", False)


def test_the_status_says_what_the_site_does_and_did(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = site.parent / "store"
    note_report(store, report(1))
    note_report(store, report(2, ended_by="hours", skipped_steps=2))
    declined = {"outcome": "declined", "code": "paused", "examples": 0, "steps": 0}
    note_report(store, report(3, **declined))
    SiteLive(phase="training", round=4, step=7, steps=20, loss=0.25, clips_per_sec=8.25).write(
        store / "live.json"
    )
    (store / "latents").mkdir()
    (store / "latents" / "x").write_bytes(bytes(2000))
    (store / "flower").mkdir()
    with (store / "flower" / "client.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("status", site) == 0
    told = capsys.readouterr().out
    assert "hospital-a: a client is running" in told
    assert "now: round 4: training, step 7 of 20, loss 0.250, 8.25 clips/s" in told
    assert "round 1 done, 12 steps in 1 min 15 s, train loss 0.5000" in told
    assert "12 steps in 1 min 15 s (the site's hours ended), 2 skipped" in told
    assert "round 3 declined: the site is paused" in told
    assert re.search(r"latents +2 kB  1 file\n", told)
    assert status(site, capsys)["client_running"] is False


def test_a_site_that_never_ran_has_a_status(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site.parent / "store").rmdir()
    found = status(site, capsys)
    assert (found["live"], found["rounds"], found["held"]) == (None, [], [])
    assert command("status", site) == 0
    assert "no round has come yet" in capsys.readouterr().out


def test_the_live_line() -> None:
    live = SiteLive(
        phase="training",
        round=3,
        step=12,
        steps=100,
        loss=0.5,
        clips_per_sec=8.0,
        memory_bytes=2 * 10**9,
        sec_left=75,
    )
    assert live_line(live) == (
        "round 3: training, step 12 of 100, loss 0.500, 8 clips/s, 2 GB, 1 min 15 s left"
    )
    encoding = SiteLive(phase="preparing", round=1, clips=3, of_clips=9)
    assert live_line(encoding) == "round 1: preparing, 3 of 9 clips"


def test_a_failed_round_says_where_to_look() -> None:
    failed = report(1, outcome="failed", code="data", reference="0badf00d", examples=0, steps=0)
    assert outcome_line(failed).endswith("study can use (look for 0badf00d in the log)")


def test_a_round_that_privacy_forbids_says_where_the_reason_stands() -> None:
    declined = report(1, outcome="declined", code="privacy", examples=0, steps=0)
    assert outcome_line(declined).endswith("ledger is not whole (the log says why)")


def test_without_a_terminal_lines_come_at_changes_and_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    now = [0.0]
    monkeypatch.setattr(site_screen.time, "monotonic", lambda: now[0])
    SiteLive(phase="training", round=9, step=9, steps=9).write(tmp_path / "live.json")
    note_report(tmp_path, report(9))

    def after(sec: float, live: SiteLive | None = None) -> list[str]:
        now[0] += sec
        if live:
            live.write(tmp_path / "live.json")
        told.clear()
        screen.update()
        return told

    with SiteScreen(tmp_path, tell=told.append) as screen:
        assert after(1) == []  # what an earlier client left
        assert after(1, SiteLive(phase="preparing", round=1)) == ["round 1: preparing"]
        assert after(1, SiteLive(phase="training", round=1, step=1, steps=9)) == [
            "round 1: training, step 1 of 9"
        ]
        assert after(50, SiteLive(phase="training", round=1, step=5, steps=9)) == []
        assert after(11) == ["round 1: training, step 5 of 9"]
        note_report(tmp_path, report(1))
        assert after(1, SiteLive(phase="idle", round=1)) == [
            "round 1 done, 12 steps in 1 min 15 s, train loss 0.5000"
        ]
        assert after(100) == []


def test_status_tells_what_the_server_said_of_an_update(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, verdict in (
        (1, Verdict(round=1, outcome="accepted")),
        (2, Verdict(round=2, outcome="refused", code="moved", in_a_row=1)),
    ):
        note_report(site.parent / "store", report(number))
        note_verdict(site.parent / "store", "0" * 32, verdict)
    assert command("status", site) == 0
    told = capsys.readouterr().out
    assert "round 1 done, 12 steps in 1 min 15 s, train loss 0.5000; the server took it" in told
    assert "; the server refused it: a weight moved further than the round's steps" in told
    assert status(site, capsys)["rounds"][1]["verdict"]["code"] == "moved"
