"""Asking sites for copies: whoever they are and whatever they send, the run's folder tells it."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict

from fake_sites import STUDY, FakeGrid, Weights, finished_run, report
from feat_fed.audit import lines
from feat_fed.config import SamplerConfig
from feat_fed.errors import RunError
from feat_fed.memorisation import NearestClips, SiteAnswer
from feat_fed.protocol import Assignment, enclose
from feat_fed.report.run_store import RunStore
from feat_fed.wire import to_records
from feat_fed_server import releasing
from feat_fed_server.release_folder import AskingState, ClipsHeader, ReleaseFolder
from feat_fed_server.releasing import ReleaseAsking, ReleaseErrand
from feat_fed_server.roster import KeyRoster
from feat_fed_server.site_orders import SiteOrders

CLIPS = 3
NEAR = (False, True, False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "run"
    return finished_run(root, STUDY.model_copy(update={"rounds": 1}), "a", "b").root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> RunStore:
    shutil.copytree(trained, tmp_path / "run")
    return RunStore(tmp_path / "run")


def ask(
    store: RunStore,
    sites: dict[str, Any],
    *,
    wait_sec: float = 60.0,
    kind: type[FakeGrid] = FakeGrid,
) -> FakeGrid:
    """Ask about three clips; return the grid."""
    folder = ReleaseFolder(store.root)
    sampler = SamplerConfig(num_clips=CLIPS)
    header = ClipsHeader.of(store, 1, sampler)
    folder.write_latents(torch.ones(CLIPS, 2, 6, 4, 4), header)
    state = AskingState(
        clips_sha256=folder.read_latents()[1],
        clips=CLIPS,
        round=1,
        until=time.time() + wait_sec,
        sites=("a", "b"),
    )
    folder.write_asking(state)
    return go_on(store, sites, kind)


def go_on(store: RunStore, sites: dict[str, Any], kind: type[FakeGrid] = FakeGrid) -> FakeGrid:
    grid = kind(sites)
    roster = KeyRoster({name.encode(): name for name in sites})
    ReleaseAsking(grid, roster, store).run()  # type: ignore[arg-type]
    return grid


def answers(store: RunStore) -> dict[str, SiteAnswer]:
    state = ReleaseFolder(store.root).asking()
    assert state is not None and state.state == "complete"
    return state.answers


def compared(site: str, **changes: Any) -> Callable[[Assignment, Weights], RecordDict]:
    fields = {"near": NEAR, "calibrated": "enough"} | changes
    told = NearestClips.model_validate(fields)
    return saying(site, enclosed=enclose(told))


def saying(site: str, **changes: Any) -> Callable[[Assignment, Weights], RecordDict]:
    fields = {"examples": 0, "train_loss": None, "heldout_loss": None, "holds": None} | changes
    return lambda assignment, _: to_records(report(assignment, site, **fields))


def test_each_site_that_took_part_is_asked_once_about_these_clips(store: RunStore) -> None:
    seen = []

    def looks(assignment: Assignment, weights: Weights) -> RecordDict:
        seen.append((assignment.task, assignment.round, assignment.weights, assignment.attempt))
        return compared("a")(assignment, weights)

    grid = ask(store, {"a": looks, "b": compared("b", near=(False,) * 3), "c": compared("c")})
    assert seen == [("memorisation", 1, None, None)]
    assert grid.asked_of == ["a", "b"]  # c has trained nothing of it
    assert grid.bytes_to["a"] > CLIPS * 2 * 6 * 4 * 4 * 4
    told = answers(store)
    assert {name: each.status for name, each in told.items()} == {"a": "answered", "b": "answered"}
    assert told["a"].nearest is not None and told["a"].nearest.near == NEAR
    asked = [each.event for each in lines(store.root / "audit")]
    assert [each["site"] for each in asked if each.get("task") == "memorisation"] == [
        "a", "b", "a", "b",
    ]  # fmt: skip
    assert store.summary().state == "complete"


def enclosing(site: str, content: object) -> Callable[[Assignment, Weights], RecordDict]:
    model = type("Hostile", (), {"model_dump_json": lambda _: json.dumps(content)})()
    return saying(site, enclosed=enclose(model))


FEW = {"near": NEAR[:2], "calibrated": "enough"}
SCORED = {
    "near": NEAR,
    "calibrated": "few",
    "heldout_patients": 3,
    "threshold": 0.5,
    "scores": [0.1, 0.9, 0.2],
}


@pytest.mark.parametrize(
    "hostile",
    [
        saying("a"),
        saying("b", enclosed=enclose(NearestClips(near=NEAR, calibrated="few"))),
        enclosing("a", FEW),
        enclosing("a", {"near": [True] * 20_000, "calibrated": "enough"}),
        enclosing("a", {**SCORED, "scores": [0.1, float("nan"), 0.2]}),
        enclosing("a", {**SCORED, "scores": [0.1, 1e308, 0.2]}),
        enclosing("a", {**SCORED, "scores": [0.1, 0.91234, 0.2]}),
        enclosing("a", {**SCORED, "note": "patient-4711"}),
        enclosing("a", [1, 2]),
        saying("a", enclosed="AAAA"),
        saying("a", task="evaluate", examples=1),
        saying("a", round=7),
        lambda assignment, _: RecordDict(),
    ],
)  # fmt: skip
def test_a_hostile_report_is_refused_and_the_other_site_counts(
    hostile: Any, store: RunStore
) -> None:
    ask(store, {"a": hostile, "b": compared("b")})
    told = answers(store)
    assert (told["a"].status, told["a"].nearest) == ("refused", None)
    assert told["b"].status == "answered"
    assert "4711" not in ReleaseFolder(store.root)._asking.read_text()


def test_scores_are_kept(store: RunStore) -> None:
    ask(store, {"a": enclosing("a", SCORED), "b": compared("b")})
    told = answers(store)["a"].nearest
    assert told is not None and told.scores == (0.1, 0.9, 0.2)


def test_who_declines_or_fails_is_not_asked_again_and_who_is_silent_is_missing(
    store: RunStore,
) -> None:
    declined = saying("a", outcome="declined", code="release")
    grid = ask(store, {"a": declined, "b": lambda *_: None}, wait_sec=1.0)
    assert grid.asked_of == ["a", "b"]
    told = answers(store)
    assert (told["a"].status, told["b"].status) == ("declined", "missing")
    assert "policy" in told["a"].reason and "deadline" in told["b"].reason
    ask(store, {"a": lambda *_: Error(2, "patient 4711"), "b": compared("b")})
    assert answers(store)["a"].status == "failed"


def test_who_is_paused_is_asked_again(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "_AGAIN_SEC", 0.05)
    turns = [saying("a", outcome="declined", code="paused"), compared("a")]
    grid = ask(store, {"a": lambda *told: turns.pop(0)(*told), "b": compared("b")})
    assert grid.asked_of == ["a", "b", "a"]
    assert answers(store)["a"].status == "answered"


def test_who_comes_late_is_heard_and_who_answered_before_is_not_asked_again(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "_LISTEN_SEC", 0.1)

    until = time.time() + 0.6

    class Slow(FakeGrid):
        def pull_messages(self, ids: Any) -> list[Message]:
            is_late = time.time() < until
            return super().pull_messages([each for each in ids if not (is_late and each == "0-0")])

    grid = ask(store, {"a": compared("a"), "b": compared("b")}, kind=Slow)
    assert grid.asked_of == ["a", "b"]
    assert {each.status for each in answers(store).values()} == {"answered"}
    ReleaseErrand(store).begin()
    assert go_on(store, {"a": compared("a"), "b": compared("b")}).asked_of == []


def test_who_is_not_registered_or_excluded_is_not_waited_for(store: RunStore) -> None:
    ask(store, {"b": compared("b")})
    assert "not registered" in answers(store)["a"].reason
    SiteOrders(excluded=("b",)).write(store.root)
    ask(store, {"a": compared("a"), "b": compared("b")})
    assert answers(store)["b"].reason == "excluded by the coordinator"


def test_the_errand_is_what_the_folder_says(store: RunStore) -> None:
    errand = ReleaseErrand(store)
    with pytest.raises(RunError, match="nothing is asked"):
        errand.begin()
    ask(store, {"a": compared("a"), "b": compared("b")})
    assert (errand.outcome(), errand.progress()) == (True, 2)
    errand.begin()
    assert errand.outcome() is None
    releasing.note_failure(store, RunError(f"{store.root} is no run"))
    assert errand.outcome() is False
    assert str(store.root) not in errand.message()
    assert store.summary().state == "complete"  # the study's state is its own


def test_other_clips_than_those_asked_about_are_not_sent(store: RunStore) -> None:
    ask(store, {"a": compared("a"), "b": compared("b")})
    ReleaseErrand(store).begin()
    folder = ReleaseFolder(store.root)
    header = ClipsHeader.of(store, 1, SamplerConfig(num_clips=1))
    folder.write_latents(torch.ones(1, 2, 6, 4, 4), header)
    with pytest.raises(RunError, match="other clips"):
        go_on(store, {"a": compared("a"), "b": compared("b")})
