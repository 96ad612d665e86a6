"""The round loop against sites that live in this process and may misbehave."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from torch import Tensor

from aggregating import filled_inbox
from fake_sites import STUDY, Answer, FakeGrid, Weights, honest, report, run, trained_at
from feat_fed.config import StudyConfig
from feat_fed.errors import FederationError
from feat_fed.federate import pack
from feat_fed.protocol import Assignment, Report
from feat_fed.report.live import StudyLive
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import restore
from feat_fed.wire import to_records
from feat_fed_server import again as again_module
from feat_fed_server.asked import MAX_SENDINGS
from feat_fed_server.roster import KeyRoster
from feat_fed_server.rounds import RoundLoop


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", STUDY)


def moved_by(store: RunStore, round_number: int) -> float:
    """How far the global weights are from the untrained ones; all weights move alike."""
    from feat_fed.model import read_weights

    first = read_weights(store.checkpoint(0)).tensors
    now = read_weights(store.checkpoint(round_number)).tensors
    moves = torch.cat([(now[name] - first[name]).flatten() for name in first])
    assert float(moves.max() - moves.min()) < 1e-5
    return float(moves.mean())


@pytest.fixture
def unhurried(tmp_path: Path) -> RunStore:
    """A run whose rounds do not end before the sites have answered."""
    sites = STUDY.sites.model_copy(update={"round_sec": 60})
    return RunStore.create(tmp_path / "unhurried", STUDY.model_copy(update={"sites": sites}))


def test_rounds_are_means_weighted_by_examples(store: RunStore) -> None:
    run(store, {"a": honest("a", 1.0, examples=3), "b": honest("b", 5.0, examples=1)})
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    assert moved_by(store, 2) == pytest.approx(4.0, abs=1e-5)
    assert store.summary().state == "complete"
    assert store.summary().final_heldout_loss == 0.5
    assert [record.round for record in store.rounds()] == [1, 2]


def test_a_study_may_weigh_by_the_steps_that_were_taken(tmp_path: Path) -> None:
    strategy = STUDY.strategy.model_copy(update={"weigh_by": "steps"})
    store = RunStore.create(tmp_path / "run", STUDY.model_copy(update={"strategy": strategy}))

    def site(name: str, shift: float, *, examples: int, steps: int) -> Answer:
        def answer(assignment: Assignment, weights: Weights) -> RecordDict:
            if assignment.task == "evaluate":
                return to_records(report(assignment, name))
            told = report(assignment, name, examples=examples, steps=steps, ended_by="hours")
            return to_records(told, pack({key: each + shift for key, each in weights.items()}))

        return answer

    run(
        store,
        {"a": site("a", 1.0, examples=1, steps=30), "b": site("b", 5.0, examples=9, steps=10)},
    )
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    assert [each.steps for each in store.rounds()[0].sites] == [30, 10]


def test_the_average_lags_by_its_decay(store: RunStore) -> None:
    from feat_fed.model import read_weights

    run(store, {"a": honest("a", 1.0), "b": honest("b", 1.0)})
    first, ema = (read_weights(path).tensors for path in (store.ema(0), store.ema(2)))
    name = next(iter(first))
    # The untrained weights have no part: e1 = 1; e2 = (1 + 2) / 2
    assert torch.allclose(ema[name] - first[name], torch.tensor(1.5), atol=1e-5)


def test_the_order_of_replies_does_not_change_a_byte(tmp_path: Path) -> None:
    sites = {"a": honest("a", 0.1, 3), "b": honest("b", 0.7, 5), "c": honest("c", -0.3, 7)}
    bytes_of = []
    for folder, order in (("x", "abc"), ("y", "cab")):
        store = RunStore.create(tmp_path / folder, STUDY)
        run(store, {name: sites[name] for name in order})
        bytes_of.append({n: w.numpy().tobytes() for n, w in restore(store).weights.items()})
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_server_goes_on_at_the_next_round_with_the_same_weights(
    tmp_path: Path, damaged: bool
) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 2.0)}
    whole = RunStore.create(tmp_path / "whole", STUDY)
    run(whole, sites)
    cut = RunStore.create(tmp_path / "cut", STUDY)

    def dies_in_round_two(assignment: Assignment, weights: Weights) -> RecordDict:
        if assignment.round == 2:
            raise KeyboardInterrupt
        return honest("a", 1.0)(assignment, weights)  # type: ignore[return-value]

    with pytest.raises(KeyboardInterrupt):
        run(cut, {**sites, "a": dies_in_round_two})
    if damaged:  # nobody is asked for the round again: its updates are still there
        flip_last_byte(cut.checkpoint(1))
    grid = run(RunStore(cut.root), sites)
    assert [each.round for each in grid.asked if each.task == "train"] == [2, 2]
    assert [each.first_step for each in grid.asked if each.task == "train"] == [100, 100]
    for name, tensor in restore(whole).weights.items():
        assert torch.equal(tensor, restore(cut).weights[name])


def test_a_damaged_newest_checkpoint_costs_its_round_only(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 1.0)}
    run(store, sites)
    flip_last_byte(store.checkpoint(2))
    assert restore(store).rounds_done == 1
    run(store, sites)
    assert moved_by(store, 2) == pytest.approx(2.0, abs=1e-5)


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def hostile(make: Callable[[Assignment, Weights], RecordDict | Error | None]) -> Answer:
    return make


def with_weights(change: Callable[[Weights], Weights]) -> Answer:
    return lambda a, w: to_records(report(a, "c"), pack(change(w)))


def first_as(value: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, (n := next(iter(weights))): value(weights[n])}


HOSTILE: dict[str, tuple[Answer, str]] = {
    "nan": (with_weights(first_as(lambda t: t * torch.nan)), "not finite"),
    "inf": (with_weights(first_as(lambda t: t / 0)), "not finite"),
    "shape": (with_weights(first_as(lambda t: t[None])), "another shape"),
    "broadcastable": (with_weights(first_as(lambda t: t.flatten()[:1])), "another shape"),
    "dtype": (with_weights(first_as(lambda t: t.half())), "another dtype"),
    "extra": (with_weights(lambda w: {**w, "x": torch.zeros(1)}), "unknown"),
    "missing": (with_weights(lambda w: dict(list(w.items())[1:])), "missing"),
    "nothing": (lambda a, w: to_records(report(a, "c")), "missing"),
    "too many steps": (
        lambda a, w: to_records(report(a, "c", steps=101), pack(w)),
        "the round's 100 steps",
    ),
    "no step": (lambda a, w: to_records(report(a, "c", steps=0), pack(w)), "between 1 and"),
    "skipped too many": (
        lambda a, w: to_records(report(a, "c", steps=99, skipped_steps=2), pack(w)),
        "the round's 100 steps",
    ),
    "fewer for no reason": (
        lambda a, w: to_records(report(a, "c", steps=99), pack(w)),
        "nothing that ended them",
    ),
    "garbage": (lambda a, w: to_records(report(a, "c"), [b"x" * 99]), "not a safetensors"),
    "another round": (lambda a, w: to_records(report(a, "c", round=9), pack(w)), "another round"),
    "another study": (
        lambda a, w: to_records(report(a, "c", study_id="0" * 32), pack(w)),
        "another study id",
    ),
    "another's name": (lambda a, w: to_records(report(a, "a"), pack(w)), "another site's name"),
    "no header": (lambda a, w: RecordDict(), "without a header"),
    "flower error": (lambda a, w: Error(8, "patient 4711 in /data/secret"), "Flower error 8"),
    "silence": (lambda a, w: None, "no answer"),
    "own failure": (
        lambda a, w: to_records(
            report(a, "c", outcome="failed", code="data", reference="0badf00d", examples=0)
        ),
        "0badf00d",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_reply_is_left_out_by_name_and_the_run_goes_on(kind: str, store: RunStore) -> None:
    answer, reason = HOSTILE[kind]
    run(store, {"a": honest("a", 1.0), "b": honest("b", 3.0), "c": answer})
    assert moved_by(store, 2) == pytest.approx(4.0, abs=1e-5)
    site = {each.site: each for each in store.rounds()[0].sites}["c"]
    assert site.status != "ok"
    assert reason in site.reason
    assert "4711" not in site.reason


def test_too_few_good_replies_end_the_study_with_the_reasons(store: RunStore) -> None:
    with pytest.raises(FederationError, match=r"1 good reply of the 2.*b: .*not finite"):
        run(
            store,
            {
                "a": honest("a", 1.0),
                "b": lambda a, w: to_records(
                    report(a, "b"), pack({n: t * torch.nan for n, t in w.items()})
                ),
            },
        )
    assert restore(store).rounds_done == 0


def declines(site: str, *, times: int, code: str = "paused") -> Answer:
    """A site that declines so often, and then trains."""
    left = [times]

    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        left[0] -= 1
        if left[0] >= 0:
            told = report(assignment, site, outcome="declined", code=code, examples=0, steps=0)
            return to_records(told)
        return honest(site, 3.0)(assignment, weights)  # type: ignore[return-value]

    return answer


def test_a_site_that_declines_is_asked_again_and_the_others_work_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again_module, "_ASK_AGAIN_TIMES", 10**6)
    patient = STUDY.sites.model_copy(update={"wait_sec": 600})
    store = RunStore.create(tmp_path / "run", STUDY.model_copy(update={"sites": patient}))
    grid = run(store, {"a": honest("a", 1.0), "b": declines("b", times=3)})
    assert trained_at(grid, 1) == ["a", "b", "b", "b", "b"]
    assert trained_at(grid, 2) == ["a", "b"]
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    first = {each.site: each for each in store.rounds()[0].sites}
    # Asked four times, it was sent weights once.
    assert first["b"].bytes_down == first["a"].bytes_down > 0


def test_a_site_that_declines_does_not_hold_up_a_study_that_has_enough(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 1.0)}
    grid = run(store, {**sites, "c": declines("c", times=1, code="hours")})
    assert trained_at(grid, 1) == ["a", "b", "c"]
    assert [each.status for each in store.rounds()[0].sites] == ["ok", "ok", "declined"]
    assert store.rounds()[0].sites[2].reason == "the site does not train at this time of day"
    assert [each.status for each in store.rounds()[1].sites] == ["ok"] * 3


def test_a_study_waits_as_long_as_it_waits_for_sites_and_then_says_who_declined(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr(StudyLive, "write", lambda live, path: told.append(live.declined))
    with pytest.raises(FederationError, match=r"round 1: 1 good.*; b: the site is paused$"):
        run(store, {"a": honest("a", 1.0), "b": declines("b", times=10**6)})
    assert {"b": "the site is paused"} in told


def test_a_site_to_which_the_model_is_too_large_is_not_asked_again(store: RunStore) -> None:
    grid = FakeGrid({"a": honest("a", 1.0), "b": declines("b", times=9, code="traffic")})
    roster = KeyRoster({name.encode(): name for name in grid.sites})
    with pytest.raises(FederationError, match="b: the round's weights are more than"):
        RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    assert trained_at(grid, 1) == ["a", "b"]


def test_a_failure_beside_a_decline_is_tried_again_a_few_times_only(store: RunStore) -> None:
    def fails(assignment: Assignment, weights: Weights) -> RecordDict:
        return to_records(report(assignment, "b", outcome="failed", code="training", examples=0))

    grid = FakeGrid({"a": declines("a", times=10**6), "b": fails, "c": honest("c", 1.0)})
    roster = KeyRoster({name.encode(): name for name in grid.sites})
    with pytest.raises(FederationError, match="a: the site is paused; b: training failed"):
        RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    asked = trained_at(grid, 1)
    assert (asked.count("b"), asked.count("c")) == (3, 1)
    assert asked.count("a") >= 3


def test_a_shortened_round_counts_its_steps_and_says_why(store: RunStore) -> None:
    def shortened(assignment: Assignment, weights: Weights) -> RecordDict:
        if assignment.task == "evaluate":
            return to_records(report(assignment, "b"))
        told = report(assignment, "b", steps=12, skipped_steps=1, ended_by="hours")
        return to_records(told, pack({name: each + 0.5 for name, each in weights.items()}))

    run(store, {"a": honest("a", 1.0), "b": shortened})
    site = store.rounds()[0].sites[1]
    assert (site.status, site.steps, site.planned_steps, site.ended_by) == ("ok", 12, 100, "hours")
    assert site.shortfall == "12 of 100 steps: the site's hours ended; 1 skipped: not finite"


def test_missing_sites_are_named_and_nothing_hangs(store: RunStore) -> None:
    with pytest.raises(FederationError, match=r"1 of the 2 sites.*missing: b"):
        run(store, {"a": honest("a", 1.0)}, "a", "b")


def test_a_stranger_is_not_asked(store: RunStore) -> None:
    grid = run(
        store,
        {"a": honest("a", 1.0), "b": honest("b", 1.0), "stranger": honest("a", 99.0)},
        *("a", "b"),
    )
    assert len([each for each in grid.asked if each.task == "train"]) == 4


def test_a_site_that_comes_a_little_later_takes_part_from_the_start(store: RunStore) -> None:
    sites = {name: honest(name, 1.0) for name in "abc"}
    grid = FakeGrid(sites)
    looks = iter([1, 2, 2, 2, 3])
    everyone = grid.get_nodes
    grid.get_nodes = lambda: everyone()[: next(looks, 3)]  # type: ignore[method-assign]
    roster = KeyRoster({name.encode(): name for name in sites})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    assert [site.site for site in store.rounds()[0].sites] == ["a", "b", "c"]


def test_a_message_that_flower_does_not_take_is_a_missing_reply(store: RunStore) -> None:
    sites = {name: honest(name, 1.0) for name in "abc"}
    grid = FakeGrid(sites)
    push = grid.push_messages
    grid.push_messages = lambda messages: [*push(messages)[:-1], ""]  # type: ignore[method-assign]
    RoundLoop(grid, KeyRoster({n.encode(): n for n in sites}), store).run()  # type: ignore[arg-type]
    assert [site.status for site in store.rounds()[0].sites].count("missing") == 1


def test_a_reply_that_flower_cannot_read_costs_itself_only(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 3.0), "c": honest("c", 99.0)}
    grid = FakeGrid(sites)
    pull = grid.pull_messages

    def garbage_of_c(ids: Iterable[str]) -> list[Message]:
        if any(grid.node_of[each] == 3 for each in ids):
            raise ValueError("Error parsing message")
        return pull(ids)

    grid.pull_messages = garbage_of_c  # type: ignore[method-assign]
    RoundLoop(grid, KeyRoster({n.encode(): n for n in sites}), store).run()  # type: ignore[arg-type]
    assert moved_by(store, 2) == pytest.approx(4.0, abs=1e-5)
    site = {each.site: each for each in store.rounds()[0].sites}["c"]
    assert (site.status, site.reason) == ("refused", "a reply that is no message of Flower's")


def test_a_study_whose_sites_are_gone_at_the_end_is_complete(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 1.0)}
    run(store, sites)
    summary = store.summary().model_copy(update={"state": "running", "final_heldout_loss": None})
    store.write_summary(summary)
    run(RunStore(store.root), {}, "a", "b")
    assert store.summary().state == "complete"
    assert store.summary().final_heldout_loss is None


class Unreliable:
    """Answers of a site that loses some of what it is sent."""

    def __init__(self, site: str, *outcomes: Error | None) -> None:
        self.sendings = 0
        self._honest = honest(site, 1.0)
        self._outcomes = list(outcomes)

    def __call__(self, assignment: Assignment, weights: Weights) -> RecordDict | Error | None:
        self.sendings += 1
        return self._outcomes.pop(0) if self._outcomes else self._honest(assignment, weights)


GONE, DIED = Error(5, "Node Unavailable"), Error(8, "ClientApp crashed")


@pytest.mark.parametrize("losses", [[GONE], [DIED], [GONE, DIED, GONE, DIED]])
def test_a_site_that_lost_its_message_is_sent_it_again(
    losses: list[Error], unhurried: RunStore
) -> None:
    a = Unreliable("a", *losses)
    grid = run(unhurried, {"a": a, "b": honest("b", 3.0)})
    assert moved_by(unhurried, 2) == pytest.approx(4.0, abs=1e-5)
    assert a.sendings == len(losses) + 3  # two rounds and the scoring
    asked = zip(grid.asked_of, grid.asked, strict=True)
    first, *again = [each for site, each in asked if (site, each.round) == ("a", 1)]
    # It has the weights that it was sent first.
    expected = {**first.model_dump(), "base": first.weights, "answer_within_sec": None}
    assert all({**each.model_dump(), "answer_within_sec": None} == expected for each in again)
    down = {each.site: each.bytes_down for each in unhurried.rounds()[0].sites}
    assert down["a"] == down["b"] > 0


def test_a_site_that_dies_of_its_message_is_left_out_at_last(unhurried: RunStore) -> None:
    c = Unreliable("c", *[DIED] * 99)
    run(unhurried, {"a": honest("a", 1.0), "b": honest("b", 3.0), "c": c})
    assert c.sendings == 3 * MAX_SENDINGS
    site = {each.site: each for each in unhurried.rounds()[0].sites}["c"]
    assert (site.status, site.reason) == ("failed", "Flower error 8: the site's process ended")
    assert moved_by(unhurried, 2) == pytest.approx(4.0, abs=1e-5)


def test_a_site_that_reconnects_without_a_word_is_sent_its_message_again(store: RunStore) -> None:
    grid = FakeGrid({"a": honest("a", 1.0), "b": Unreliable("b", None)})
    pull = grid.pull_messages

    def reconnecting(ids: Iterable[str]) -> list[Message]:
        grid.activated_at["b"] = "again"
        return pull(ids)

    grid.pull_messages = reconnecting  # type: ignore[method-assign]
    RoundLoop(grid, KeyRoster({name.encode(): name for name in "ab"}), store).run()  # type: ignore[arg-type]
    assert [site.status for site in store.rounds()[0].sites] == ["ok", "ok"]


def test_a_site_that_answers_twice_counts_once(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 3.0)}
    grid = FakeGrid(sites)
    pull, looks = grid.pull_messages, iter(range(100))

    def late(ids: Iterable[str]) -> list[Message]:
        asked = list(ids)
        if grid.node_of[asked[0]] == 2 and (look := next(looks)) < 3:
            grid.activated_at["b"] = f"at {look}"  # on its way while it is asked again
            return []
        return pull(asked)

    grid.pull_messages = late  # type: ignore[method-assign]
    RoundLoop(grid, KeyRoster({name.encode(): name for name in sites}), store).run()  # type: ignore[arg-type]
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    assert [site.site for site in store.rounds()[0].sites] == ["a", "b"]


def test_a_site_that_does_not_come_back_costs_the_round_nothing_but_time(store: RunStore) -> None:
    sites = {"a": honest("a", 1.0), "b": honest("b", 3.0), "c": Unreliable("c", *[GONE] * 99)}
    grid = FakeGrid(sites)
    push, gone = grid.push_messages, False

    def losing(messages: Iterable[Message]) -> list[str]:
        nonlocal gone
        ids, gone = push(messages), True
        return ids

    everyone = grid.get_nodes
    grid.push_messages = losing  # type: ignore[method-assign]
    grid.get_nodes = lambda: everyone()[: 2 if gone else 3]  # type: ignore[method-assign]
    RoundLoop(grid, KeyRoster({name.encode(): name for name in sites}), store).run()  # type: ignore[arg-type]
    assert [site.status for site in store.rounds()[0].sites] == ["ok", "ok", "failed"]
    assert sites["c"].sendings == 1  # type: ignore[attr-defined]


def test_updates_stay_while_the_quorum_is_lost(store: RunStore) -> None:
    with pytest.raises(FederationError, match="1 good reply of the 2"):
        run(store, {"a": honest("a", 1.0), "b": declines("b", times=10**6)})
    assert [each.name for each in store.inbox(1).iterdir()] == ["a.safetensors"]
    grid = run(RunStore(store.root), {"a": honest("a", 1.0), "b": honest("b", 3.0)})
    assert trained_at(grid, 1) == ["b"]
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    assert [site.status for site in store.rounds()[0].sites] == ["ok", "ok"]


@pytest.mark.parametrize("change", [{"study_id": "0" * 32}, {"site": "stranger"}])
def test_what_another_study_or_site_left_in_the_inbox_does_not_count(
    change: dict[str, str], store: RunStore
) -> None:
    weights = restore(store).weights
    task = {"round": 1, "task": "train", "outcome": "ok", "examples": 9, "steps": 100}
    told = {"study_id": store.summary().study_id, "site": "a", **task, **change}
    giant = {name: each + 1e6 for name, each in weights.items()}
    filled_inbox(store.inbox(1), [(Report.model_validate(told), giant)], weights)
    grid = run(store, {"a": honest("a", 1.0), "b": honest("b", 1.0)})
    assert trained_at(grid, 1) == ["a", "b"]
    assert moved_by(store, 1) == pytest.approx(1.0, abs=1e-5)


def test_a_study_that_weighs_by_patients_needs_their_count(tmp_path: Path) -> None:
    study = STUDY.model_dump() | {"strategy": {"weigh_by": "patients"}}
    store = RunStore.create(tmp_path / "run", StudyConfig.model_validate(study))

    def site(name: str, shift: float, patients: int | None) -> Answer:
        def answer(assignment: Assignment, weights: Weights) -> RecordDict:
            told = report(assignment, name, patients=patients, examples=7)
            moved = {key: each + shift for key, each in weights.items()}
            return to_records(told, pack(moved) if assignment.task == "train" else ())

        return answer

    run(store, {"a": site("a", 1.0, 3), "b": site("b", 5.0, 1), "c": site("c", 99.0, None)})
    assert moved_by(store, 1) == pytest.approx(2.0, abs=1e-5)
    silent = store.rounds()[0].sites[2]
    assert (silent.status, silent.reason) == (
        "refused",
        "no count of patients, by which the study weighs",
    )


def test_a_study_with_a_server_optimiser_goes_on_with_its_state(tmp_path: Path) -> None:
    study = STUDY.model_dump() | {"strategy": {"kind": "fedavgm", "server_momentum": 0.5}}
    store = RunStore.create(tmp_path / "run", StudyConfig.model_validate(study | {"rounds": 1}))
    sites = {"a": honest("a", 1.0), "b": honest("b", 1.0)}
    run(store, sites)
    run(RunStore.resume(store.root, StudyConfig.model_validate(study)), sites)
    assert moved_by(store, 2) == pytest.approx(2.5, abs=1e-5)  # 1, then 1 + 0.5


def test_rounds_are_written_for_tensorboard(store: RunStore) -> None:
    run(store, {"a": honest("a", 1.0), "b": honest("b", 1.0)})
    (file,) = (store.root / "tensorboard" / "rounds").iterdir()
    assert file.read_bytes().count(b"loss/train") == store.study.rounds


def test_rounds_do_without_tensorboard_where_the_disk_is_full(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboardX.RecordWriter.write", full)
    run(store, {"a": honest("a", 1.0), "b": honest("b", 1.0)})
    assert store.summary().state == "complete"
    assert caplog.text.count("no events for TensorBoard") == 1
