"""Sites that are admitted, or taken out, while the round loop is at work."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Message, RecordDict
from safetensors.torch import load_file

from fake_sites import STUDY, FakeGrid, Weights, honest, run
from feat_fed.protocol import Assignment
from feat_fed.report.links import Link, Links
from feat_fed.report.run_store import RunStore
from feat_fed_server.roster import FileRoster, KeyRoster
from feat_fed_server.rounds import RoundLoop


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", STUDY)


def admit(store: RunStore, *names: str) -> None:
    KeyRoster({name.encode(): name for name in names}).save(store.roster)


def test_a_study_waits_for_approvals_as_long_as_it_takes(store: RunStore) -> None:
    sites = {name: honest(name, 1.0) for name in "ab"}
    grid, looks = FakeGrid(sites), 0
    everyone = grid.get_nodes

    def get_nodes() -> list[object]:
        nonlocal looks
        looks += 1
        if looks == 6:  # long after wait_sec
            admit(store, "a", "b")
        return everyone()

    grid.get_nodes = get_nodes  # type: ignore[method-assign]
    admit(store, "a")
    RoundLoop(grid, FileRoster(store.roster), store).run()  # type: ignore[arg-type]
    assert [site.site for site in store.rounds()[0].sites] == ["a", "b"]


def test_a_site_that_is_taken_out_is_not_waited_for_and_its_update_not_used(
    tmp_path: Path,
) -> None:
    sites = STUDY.sites.model_copy(update={"round_sec": 60.0})
    store = RunStore.create(tmp_path / "run", STUDY.model_copy(update={"sites": sites}))
    admit(store, "a", "b", "c", "d")

    def revoked(assignment: Assignment, weights: Weights) -> RecordDict | None:
        admit(store, "a", "b")
        return honest("c", 99.0)(assignment, weights)  # type: ignore[return-value]

    def silent(assignment: Assignment, weights: Weights) -> None:
        return None

    answers = {"a": honest("a", 1.0), "b": honest("b", 1.0), "c": revoked, "d": silent}
    grid = FakeGrid(answers)
    RoundLoop(grid, FileRoster(store.roster), store).run()  # type: ignore[arg-type]
    first, second = ({each.site: each for each in it.sites} for it in store.rounds())
    assert [first[name].status for name in "abcd"] == ["ok", "ok", "refused", "refused"]
    assert "taken out" in first["c"].reason and "taken out" in first["d"].reason
    assert sorted(second) == ["a", "b"]


def test_an_update_that_came_before_its_site_was_taken_out_is_not_used_either(
    tmp_path: Path,
) -> None:
    stores = [RunStore.create(tmp_path / name, STUDY) for name in ("run", "without")]
    admit(stores[0], "a", "b", "c", "d")
    admit(stores[1], "a", "c", "d")

    class Revoking(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            if (stores[0].inbox(1) / "b.safetensors").exists():
                admit(stores[0], "a", "c", "d")
            return super().pull_messages(message_ids)

    moves = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 2.5}
    sites = {name: honest(name, move) for name, move in moves.items()}
    loops = [
        RoundLoop(Revoking(sites), FileRoster(stores[0].roster), stores[0]),  # type: ignore[arg-type]
        RoundLoop(
            FakeGrid({name: sites[name] for name in "acd"}),  # type: ignore[arg-type]
            FileRoster(stores[1].roster),
            stores[1],
        ),
    ]
    for loop in loops:
        loop.run()
    told = {each.site: each for each in stores[0].rounds()[0].sites}
    assert "taken out" in told["b"].reason
    models = [load_file(store.checkpoint(1)) for store in stores]
    assert all(torch.equal(each, models[1][name]) for name, each in models[0].items())


def test_each_round_tells_what_went_over_the_wire_in_it(store: RunStore) -> None:
    up_bytes = 1000  # of an earlier run of the server
    Links(sites={"a": Link(up_bytes=up_bytes)}).write(store.links)

    def counted(assignment: Assignment, weights: Weights) -> RecordDict:
        nonlocal up_bytes
        up_bytes += 100 * assignment.round
        Links(sites={"a": Link(up_bytes=up_bytes, up_sec=up_bytes / 1000)}).write(store.links)
        return honest("a", 1.0)(assignment, weights)  # type: ignore[return-value]

    run(store, {"a": counted, "b": honest("b", 1.0)})
    links = [{each.site: each.link for each in record.sites} for record in store.rounds()]
    assert [each["a"].up_bytes for each in links if each["a"]] == [100, 200]
    assert [each["b"] for each in links] == [None, None]
