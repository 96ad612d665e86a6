"""Central privacy in the round loop: who counts, what is spent, what a kill costs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict

from fake_sites import STUDY, Answer, FakeGrid, Weights, honest, report, run
from feat_fed.config import StudyConfig
from feat_fed.errors import FederationError
from feat_fed.federate import pack
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.protocol import Assignment
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import restore
from feat_fed.wire import to_records
from feat_fed_server import rounds as rounds_module

DELTA = 1e-6


def study(rounds: int = 2, **central: Any) -> StudyConfig:
    tree = STUDY.model_dump() | {
        "rounds": rounds,
        "strategy": {"weigh_by": "equal"},
        "sites": {**STUDY.sites.model_dump(), "round_sec": 60},
        "privacy": {"central": {"noise_multiplier": 1.5, "delta": DELTA, **central}},
    }
    return StudyConfig.model_validate(tree)


def vouching(site: str, shift: float, **told: Any) -> Answer:
    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        moved = {name: each + shift for name, each in weights.items()}
        fields = {"patients_only_here": True, **told} if assignment.task == "train" else {}
        reply = report(assignment, site, **fields)
        return to_records(reply, pack(moved) if assignment.task == "train" else ())

    return answer


def absent(assignment: Assignment, weights: Weights) -> RecordDict:
    """Fails in the first round, gives an update that is not finite in the second."""
    if assignment.task == "evaluate":
        return to_records(report(assignment, "c"))
    if assignment.round == 1:
        told = report(assignment, "c", outcome="failed", code="data", examples=0, steps=0)
        return to_records(told)
    broken = {name: each * math.nan for name, each in weights.items()}
    return to_records(report(assignment, "c"), pack(broken))


def moves(store: RunStore, number: int) -> torch.Tensor:
    from feat_fed.model import read_weights

    now, before = (read_weights(store.checkpoint(at)).tensors for at in (number, number - 1))
    return torch.cat([(now[name] - before[name]).flatten().double() for name in sorted(now)])


def epsilon(noise: float, rounds: int) -> float:
    return rdp_epsilon([NoisySteps(noise, 1.0, rounds)], delta=DELTA)


def test_only_those_in_the_mean_count_and_are_accounted(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", study(2, clip_norm=0.2))
    sites = {"a": honest("a", 0.5), "b": vouching("b", 0.25), "c": absent}
    grid = run(store, sites)
    assert {each.clip_norm for each in grid.asked if each.task == "train"} == {0.2}
    assert {each.clip_norm for each in grid.asked if each.task == "evaluate"} == {None}
    for number in (1, 2):
        move = moves(store, number)
        mean = 0.2 / math.sqrt(move.numel())  # both were clipped, in the same direction
        assert float(move.std()) == pytest.approx(1.5 * 0.2 / 2, rel=0.05)
        assert float(move.mean()) == pytest.approx(mean, abs=5 * 0.15 / math.sqrt(move.numel()))
    assert [each.status for each in store.rounds()[1].sites] == ["ok", "ok", "refused"]
    [warning] = store.summary().warnings
    times = 1.5 * math.sqrt(move.numel()) / 3
    assert f"with 3 sites the noise of a round is about {times:,.0f} times" in warning
    spending = store.summary().central
    assert spending is not None
    assert [each.site for each in spending.sites] == ["a", "b"]
    a, b = spending.sites
    assert a.releases == b.releases == 2
    assert a.rdp == b.rdp == pytest.approx(epsilon(1.5, 2))
    assert a.patient_rdp is None
    assert b.patient_rdp == pytest.approx(epsilon(0.75, 2))


def test_who_was_there_once_has_spent_once(tmp_path: Path) -> None:
    def late(assignment: Assignment, weights: Weights) -> RecordDict:
        if assignment.round == 2 and assignment.task == "train":
            told = report(assignment, "c", outcome="declined", code="paused", examples=0, steps=0)
            return to_records(told)
        return vouching("c", 0.1)(assignment, weights)  # type: ignore[return-value]

    store = RunStore.create(tmp_path / "run", study(3))
    run(store, {"a": honest("a", 0.5), "b": honest("b", 0.25), "c": late})
    spending = store.summary().central
    assert spending is not None
    assert {each.site: each.releases for each in spending.sites} == {"a": 3, "b": 3, "c": 2}
    assert spending.sites[2].rdp == pytest.approx(epsilon(1.5, 2))


def test_the_moving_bound_is_sent_kept_and_gone_on_with(tmp_path: Path) -> None:
    adaptive = {"clipping": "adaptive", "clip_norm": 0.5}
    store = RunStore.create(tmp_path / "run", study(2, **adaptive))
    sites = {"a": vouching("a", 0.5, within_clip_norm=False), "b": honest("b", 0.25)}
    first = run(store, sites)
    assert restore(store).clip_norm is not None
    again = run(RunStore.resume(store.root, study(4, **adaptive)), sites)
    sent = {e.round: e.clip_norm for g in (first, again) for e in g.asked if e.task == "train"}
    expected = 0.5
    for record in store.rounds():
        assert record.central is not None and record.central.share_within is not None
        assert sent[record.round] == record.central.clip_norm == pytest.approx(expected)
        expected *= math.exp(-0.2 * (record.central.share_within - 0.5))
    assert restore(store).clip_norm == pytest.approx(expected)
    assert len({each.central.release for each in store.rounds() if each.central}) == 4


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


SITES = {"a": honest("a", 0.5), "b": honest("b", 0.25)}


def stopped_after(root: Path, rounds: int, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """A run of four rounds whose server died when it began with a later one."""
    store = RunStore.create(root, study(4))

    def dies(assignment: Assignment, weights: Weights) -> RecordDict:
        if assignment.round > rounds:
            raise KeyboardInterrupt
        return honest("a", 0.5)(assignment, weights)  # type: ignore[return-value]

    with pytest.raises(KeyboardInterrupt):
        run(store, {**SITES, "a": dies})
    return store


def releases(store: RunStore) -> list[tuple[int, str]]:
    return [(each.round, each.central.release) for each in store.records() if each.central]


def test_a_round_that_is_aggregated_again_is_the_same_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stopped_after(tmp_path / "run", 2, monkeypatch)
    digest = json.loads(store.manifest(2).read_text())["files"]
    flip_last_byte(store.checkpoint(2))
    monkeypatch.setattr(rounds_module, "rotate", lambda _: None)
    run(RunStore(store.root), SITES)
    assert json.loads(store.manifest(2).read_text())["files"] == digest
    told = releases(store)
    assert [number for number, _ in told] == [1, 2, 2, 3, 4]
    assert told[1] == told[2]
    spending = store.summary().central
    assert spending is not None
    assert [each.releases for each in spending.sites] == [4, 4]


def test_a_round_that_was_released_twice_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stopped_after(tmp_path / "run", 3, monkeypatch)
    flip_last_byte(store.checkpoint(3))
    flip_last_byte(store.checkpoint(2))  # its updates are gone, and so is its noise
    run(RunStore(store.root), SITES)
    told = releases(store)
    assert [number for number, _ in told] == [1, 2, 3, 2, 3, 4]
    assert len(set(told)) == 6
    spending = store.summary().central
    assert spending is not None
    assert [each.releases for each in spending.sites] == [6, 6]
    assert spending.sites[0].rdp == pytest.approx(epsilon(1.5, 6))


def test_no_more_is_released_than_the_study_may_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = epsilon(1.5, 4)
    store = RunStore.create(tmp_path / "run", study(4, epsilon=allowed * 1.001))
    run(store, SITES)
    assert store.summary().state == "complete"
    for number in (4, 3, 2):
        flip_last_byte(store.checkpoint(number))
    with pytest.raises(FederationError, match=r"more than the study's privacy\.central\.epsilon"):
        run(RunStore(store.root), SITES)
    assert len(releases(store)) == 4


def test_the_noise_is_drawn_once_for_a_closed_inbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunStore.create(tmp_path / "whole", study(1))
    monkeypatch.setattr(rounds_module, "new_seed", lambda: "ab" * 32)
    run(whole, SITES)
    cut = RunStore.create(tmp_path / "cut", study(1))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds_module, "save", die)
        with pytest.raises(KeyboardInterrupt):
            run(cut, SITES)
    assert len(releases(cut)) == 1
    monkeypatch.setattr(rounds_module, "new_seed", die)
    grid: FakeGrid = run(RunStore(cut.root), SITES)
    assert not [each for each in grid.asked if each.task == "train"]
    assert set(releases(cut)) == set(releases(whole))
    for name, tensor in restore(whole).weights.items():
        assert torch.equal(tensor, restore(cut).weights[name])
    assert not list((cut.root / "inbox").iterdir())  # and with it the secret
