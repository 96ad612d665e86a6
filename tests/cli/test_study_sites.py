"""``feat-fed study``: who takes part, seen and changed."""

import json
from pathlib import Path

import pytest

from fake_sites import STUDY
from feat_fed.audit.log import FOLDER, lines
from feat_fed.cli.main import run_app
from feat_fed.report.live import StudyLive
from feat_fed.report.records import RoundRecord, SiteRound
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import GlobalState, restore, save
from feat_fed_server.roster import KeyRoster
from feat_fed_server.site_orders import SiteOrders
from feat_fed_server.standing import Answer, Standing

REASON = "the weights are those that the round began with"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run after three rounds: b is quarantined, c has not come yet."""
    store = RunStore.create(tmp_path / "heart", STUDY)
    KeyRoster({name.encode(): name for name in "abc"}).save(store.roster)
    standing = Standing()
    for number in (1, 2, 3):
        answers = [
            Answer(site="a", status="ok", digest=f"a{number}", answer_sec=1.0, answered_at=1e9),
            Answer(site="b", status="refused", code="unchanged", answer_sec=1.0, answered_at=1e9),
        ]
        standing = standing.after_round(number, answers, screening=STUDY.screening)
        store.append(
            RoundRecord(
                round=number,
                started_at="2026-01-31T12:00:00+00:00",
                seconds=1,
                train_loss=1.0,
                heldout_loss=0.5,
                sites=(
                    SiteRound(site="a", status="ok"),
                    SiteRound(site="b", status="refused", reason=REASON),
                ),
            )
        )
    state = restore(store)
    tree = standing.model_dump(mode="json")
    save(store, GlobalState(3, state.weights, state.ema, standing=tree))
    return store


def command(*arguments: object) -> int:
    return run_app(["study", *map(str, arguments)])


def test_sites_are_listed_with_what_became_of_them(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("sites", "--run", store.root) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "a: admitted",
        "  last answer: 2001-09-09T01:46:40+00:00",
        "  rounds: 3 ok",
        "b: quarantined",
        "  last answer: 2001-09-09T01:46:40+00:00",
        "  rounds: 3 refused",
        f"  last: refused: {REASON}",
        *(f"  round {n}: refused: the weights were those that the round began with" for n in "123"),
        "c: admitted",
        "  last answer: none yet",
        "  rounds: none yet",
    ]


def test_a_running_study_says_who_is_connected(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    StudyLive(phase="training", round=4, rounds=9, connected=("b",)).write(store.live)
    assert command("sites", "--run", store.root, "--json") == 0
    found = {each["site"]: each for each in json.loads(capsys.readouterr().out)}
    assert [found[name]["connected"] for name in "abc"] == [False, True, False]
    assert found["b"]["state"] == "quarantined"
    assert [each["code"] for each in found["b"]["offences"]] == ["unchanged"] * 3
    assert found["b"]["last_seen"] > found["a"]["last_seen"]


def test_sites_are_excluded_and_let_in_again(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("exclude", "a", "--run", store.root) == 0
    assert SiteOrders.read(store.root).excluded == ("a",)
    for site in ("a", "b", "c"):
        assert command("readmit", site, "--run", store.root) == 0
    told = capsys.readouterr().err
    assert "a is asked again" in told
    assert "b is asked again" in told
    assert "c was not kept out" in told
    assert SiteOrders.read(store.root) == SiteOrders(readmitted={"b": 3})
    assert command("sites", "--run", store.root) == 0
    assert "quarantined" not in capsys.readouterr().out
    noted = [(line.event["kind"], line.event.get("site")) for line in lines(store.root / FOLDER)]
    assert noted[-3:] == [
        ("site-excluded", "a"),
        ("site-readmitted", "a"),
        ("site-readmitted", "b"),
    ]


def test_an_unknown_site_or_run_is_told_so(
    store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("exclude", "z", "--run", store.root) == 1
    assert "has no site 'z'; its sites are a, b, c" in capsys.readouterr().err.replace("\n", " ")
    assert command("sites", "--run", store.root / "none") == 1
    assert "is not a run" in capsys.readouterr().err
