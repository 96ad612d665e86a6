"""Sampling, deadlines, late answers and sites that are kept out, in the round loop."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict

from fake_sites import STUDY, Answer, FakeGrid, Weights, honest, report, run, trained_at
from feat_fed.config import StudyConfig
from feat_fed.errors import FederationError
from feat_fed.federate import pack
from feat_fed.model import read_weights
from feat_fed.protocol import Assignment
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.wire import to_records
from feat_fed_server import asking as asking_module
from feat_fed_server.roster import KeyRoster
from feat_fed_server.rounds import RoundLoop
from feat_fed_server.site_orders import SiteOrders
from feat_fed_server.standing import standing_of


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "POLL_SEC", 0.01)


def study(rounds: int = 2, **sites: Any) -> StudyConfig:
    changed = STUDY.sites.model_copy(update={"round_sec": 30.0, **sites})
    return STUDY.model_copy(update={"rounds": rounds, "sites": changed})


def loop(grid: FakeGrid, store: RunStore) -> None:
    roster = KeyRoster({name.encode(): name for name in grid.sites})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]


SITES: dict[str, Answer] = {name: honest(name, 0.1 * ord(name) % 1) for name in "abcde"}


def test_a_study_asks_as_many_sites_as_it_says_and_the_same_again(tmp_path: Path) -> None:
    asked = []
    for folder in ("x", "y"):
        store = RunStore.create(tmp_path / folder, study(4, per_round=2))
        grid = run(store, SITES)
        asked.append([trained_at(grid, number) for number in (1, 2, 3, 4)])
    assert asked[0] == asked[1]
    assert {len(each) for each in asked[0]} == {2}
    assert len({tuple(each) for each in asked[0]}) > 1
    assert sum(a.task == "evaluate" for a in grid.asked) == 5  # all score the final weights


def fails(site: str) -> Answer:
    told = {"outcome": "failed", "code": "data", "examples": 0, "steps": 0}
    return lambda assignment, weights: to_records(report(assignment, site, **told))


def test_who_fails_is_replaced_as_far_as_the_minimum_needs_it(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", study(1, per_round=3))
    whole = trained_at(run(store, SITES), 1)
    for gone in (1, 2):
        broken = {name: fails(name) for name in whole[:gone]}
        store = RunStore.create(tmp_path / f"run-{gone}", study(1, per_round=3))
        asked = trained_at(run(store, SITES | broken), 1)
        assert len(asked) == 3 + (gone == 2)  # the minimum is two
        assert set(whole) < set(asked) or asked == whole


class SlowGrid(FakeGrid):
    """A grid on which one site's answers to some rounds come only when they are let through."""

    def __init__(self, sites: dict[str, Answer], *, site: str, rounds: Iterable[int]) -> None:
        super().__init__(sites)
        self._node = list(sites).index(site) + 1
        self._rounds = set(rounds)
        self.released = False

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        found = []
        for each in ids:
            held = self.node_of[each] == self._node and self._round_of(each) in self._rounds
            if not held or self.released:
                found += super().pull_messages([each])
        return found

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = list(messages)
        rounds = {int(each.metadata.group_id) for each in pushed}
        self.released = self.released or max(rounds) > max(self._rounds)
        return super().push_messages(pushed)

    def _round_of(self, message_id: str) -> int:
        return self.asked[int(message_id.split("-")[0])].round


def late(tmp_path: Path, policy: str) -> tuple[RunStore, SlowGrid]:
    """Three sites; the third's answer to round 1 comes in round 2."""
    store = RunStore.create(
        tmp_path / policy, study(2, late_replies=policy, round_sec=0.5, settle_sec=0.0)
    )
    sites = {"a": honest("a", 1.0), "b": honest("b", 2.0), "c": honest("c", 4.0)}
    grid = SlowGrid(sites, site="c", rounds=[1])
    loop(grid, store)
    return store, grid


def test_a_late_update_is_dropped_and_said_so(tmp_path: Path) -> None:
    store, grid = late(tmp_path, "drop")
    first, second = ({each.site: each for each in r.sites} for r in store.rounds())
    assert first["c"].status == "missing"
    assert (second["c"].status, second["c"].answers_round) == ("late", 1)
    assert trained_at(grid, 2) == ["a", "b"]  # c was at round 1 still
    assert moved(store, 2) == pytest.approx(3.0, abs=1e-4)
    assert standing_of(store).of("c").quarantined_in is None


def test_a_late_update_moves_the_next_round_by_what_it_had_moved(tmp_path: Path) -> None:
    store, _ = late(tmp_path, "next-round")
    second = {each.site: each for each in store.rounds()[1].sites}
    assert (second["c"].status, second["c"].answers_round) == ("ok", 1)
    assert second["c"].shortfall == "came late, for round 1"
    assert moved(store, 1) == pytest.approx(1.5, abs=1e-4)
    assert moved(store, 2) == pytest.approx(1.5 + (1 + 2 + 4) / 3, abs=1e-4)


def test_a_late_update_does_not_count_in_the_score_of_the_final_weights(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "scored", study(1, round_sec=0.5, settle_sec=0.0))
    sites = {"a": honest("a", 1.0), "b": honest("b", 2.0), "c": scores("c", 9.0)}
    grid = SlowGrid(sites, site="c", rounds=[1])
    push = grid.push_messages

    def released_for_the_score(messages: Iterable[Message]) -> list[str]:
        pushed = list(messages)
        grid.released = any(each.metadata.message_type == "evaluate" for each in pushed)
        return push(pushed)

    grid.push_messages = released_for_the_score  # type: ignore[method-assign]
    loop(grid, store)
    assert store.summary().final_heldout_loss == pytest.approx(0.5)


def scores(site: str, loss: float) -> Answer:
    """A site whose held-out loss is another than the others'."""

    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        moved = {name: each + 1.0 for name, each in weights.items()}
        told = report(assignment, site, heldout_loss=loss)
        return to_records(told, pack(moved) if assignment.task == "train" else ())

    return answer


def moved(store: RunStore, number: int) -> float:
    first = read_weights(store.checkpoint(0)).tensors
    now = read_weights(store.checkpoint(number)).tensors
    return float(torch.cat([(now[name] - first[name]).flatten() for name in first]).mean())


def test_a_site_that_hangs_is_waited_for_as_long_as_it_usually_takes(tmp_path: Path) -> None:
    config = study(5, deadline="learned", shortest_sec=0.5, round_sec=600.0)
    store = RunStore.create(tmp_path / "run", config)

    def hangs_at_last(assignment: Any, weights: Any) -> Any:
        hangs = assignment.task == "train" and assignment.round == 5
        return None if hangs else honest("c", 0.5)(assignment, weights)

    grid = run(store, {"a": honest("a", 1.0), "b": honest("b", 1.0), "c": hangs_at_last})
    last = {each.site: each.status for each in store.rounds()[4].sites}
    assert last == {"a": "ok", "b": "ok", "c": "missing"}  # and not after ten minutes
    given = {a.round: a.answer_within_sec for a in grid.asked if a.task == "train"}
    assert given[1] == given[3] == 600.0
    assert given[5] is not None
    assert given[5] < 600.0
    assert standing_of(store).of("c").misses == 1


def test_an_excluded_site_is_not_asked_and_comes_back_when_readmitted(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", study(3))
    SiteOrders().excluding("c").write(store.root)

    def readmits_c(assignment: Any, weights: Any) -> Any:
        if assignment.round == 2:
            SiteOrders.read(store.root).readmitting("c", quarantined_in=None).write(store.root)
        return honest("a", 1.0)(assignment, weights)

    grid = run(store, {"a": readmits_c, "b": honest("b", 1.0), "c": honest("c", 1.0)})
    asked = [trained_at(grid, number) for number in (1, 2, 3)]
    assert asked == [["a", "b"], ["a", "b"], ["a", "b", "c"]]


def test_a_study_that_lacks_a_site_which_is_kept_out_says_so_and_waits(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", study(1, wait_sec=0.05))
    SiteOrders().excluding("b").write(store.root)
    told: list[StudyLive] = []

    def readmit() -> None:
        until = time.time() + 20
        while time.time() < until and not told:
            live = StudyLive.read(store.live)
            told.extend([live] if live and live.kept_out else [])
        time.sleep(0.2)  # longer than the study waits for sites that are not there
        SiteOrders().write(store.root)

    watcher = threading.Thread(target=readmit)
    watcher.start()
    run(store, {"a": honest("a", 1.0), "b": honest("b", 2.0)})
    watcher.join()
    assert told[0].kept_out == {"b": "excluded by the coordinator"}
    assert store.summary().state == "complete"


def test_a_study_that_lacks_a_site_for_another_reason_ends_and_names_who_is_out(
    tmp_path: Path,
) -> None:
    config = study(1, wait_sec=0.05, minimum=3)
    store = RunStore.create(tmp_path / "run", config)
    SiteOrders().excluding("b").write(store.root)
    sites = {"a": honest("a", 1.0), "b": honest("b", 2.0)}
    with pytest.raises(FederationError, match=r"missing: c; b is excluded by the coordinator"):
        run(store, sites, "a", "b", "c")


def test_a_quarantine_outlives_the_server(tmp_path: Path) -> None:
    config = study(2)
    store = RunStore.create(tmp_path / "run", config)

    def bad(assignment: Any, weights: Any) -> Any:
        return SITES["c"](assignment, {name: each * torch.nan for name, each in weights.items()})

    once = config.model_copy(
        update={"screening": config.screening.model_copy(update={"quarantine_after": 1})}
    )
    store = RunStore.resume(store.root, once.model_copy(update={"rounds": 1}))
    good = {name: SITES[name] for name in "ab"}
    run(store, {**good, "c": bad})
    assert standing_of(store).quarantined() == ("c",)
    again = RunStore.resume(store.root, once)
    grid = run(again, {**good, "c": SITES["c"]})
    assert trained_at(grid, 2) == ["a", "b"]
