"""Weights through the round loop to sites with a store and back, in every form."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict
from torch import Tensor

from fake_sites import FakeGrid, report
from feat_fed.config import StudyConfig, TransferConfig
from feat_fed.errors import MissingBaseError
from feat_fed.federate import encode
from feat_fed.protocol import Assignment
from feat_fed.report.records import RoundRecord, SiteRound
from feat_fed.report.run_store import RunStore
from feat_fed.train import RoundHooks, derive_seed, train_round
from feat_fed.train.run_state import restore
from feat_fed.wire import to_records
from feat_fed_client.exchanged import ExchangedWeights
from feat_fed_server import asking as asking_module
from feat_fed_server.outgoing import Outbox, last_taken
from feat_fed_server.roster import KeyRoster
from feat_fed_server.rounds import RoundLoop
from golden.test_golden_run import GOLDEN, Waves, job_of
from golden.test_golden_run import STUDY as GOLDEN_STUDY

Weights = dict[str, Tensor]
Training = Callable[[Assignment, Weights], Weights]

INT8 = {"up": "int8", "down": "int8"}


def study(transfer: dict[str, Any], **changes: Any) -> StudyConfig:
    tree = {
        "name": "tiny",
        "rounds": 3,
        "model": {"in_channels": 6, "hidden_size": 64, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 16},
        "sites": {"minimum": 2, "wait_sec": 0.3, "settle_sec": 0.2, "round_sec": 60},
        "transfer": transfer,
    }
    return StudyConfig.model_validate(tree | changes)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "POLL_SEC", 0.01)


class Hospital:
    """A site that keeps what it receives, trains as it is told, and may fail before it answers."""

    def __init__(self, name: str, store: Path, train: Training) -> None:
        self.name, self.store, self.train, self.examples = name, store, train, 1
        self.received: list[Weights] = []
        self.told: list[Assignment] = []
        self.sizes: list[int] = []
        self.fails: list[Error] = []

    def __call__(self, told: Assignment, weights: Weights) -> RecordDict | Error:
        self.told.append(told)
        if self.fails:
            return self.fails.pop(0)
        self.received.append(weights)
        update = []
        if told.task == "train":
            update = ExchangedWeights(self.store, told).encode(self.train(told, weights), weights)
            self.sizes.append(sum(map(len, update)))
        return to_records(report(told, self.name, examples=self.examples), update)


class StoreGrid(FakeGrid):
    """Sites receive weights into their stores, with the site's own code."""

    def holds(self, name: str) -> str | None:
        return ExchangedWeights(self.sites[name].store, self.last).held  # type: ignore[attr-defined]

    def received(self, name: str, told: Assignment, buckets: list[bytes]) -> Weights | None:
        self.last = told
        try:
            return ExchangedWeights(self.sites[name].store, told).receive(buckets)  # type: ignore[attr-defined]
        except MissingBaseError:
            return None


def drift(seed: int) -> Training:
    """Training that moves each weight a little, otherwise in each round."""

    def train(told: Assignment, weights: Weights) -> Weights:
        generator = torch.Generator().manual_seed(100 * told.round + seed)
        return {n: w + 1e-3 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}

    return train


def hospitals(root: Path, **train: Training) -> dict[str, Hospital]:
    return {name: Hospital(name, root / name, each) for name, each in train.items()}


def run(store: RunStore, sites: dict[str, Hospital]) -> StoreGrid:
    grid = StoreGrid(sites)  # type: ignore[arg-type]
    roster = KeyRoster({name.encode(): name for name in sites})
    RoundLoop(grid, roster, store).run()  # type: ignore[arg-type]
    return grid


def through(root: Path, config: StudyConfig) -> tuple[RunStore, dict[str, Hospital]]:
    sites = hospitals(root, a=drift(1), b=drift(2))
    store = RunStore.create(root / "run", config)
    run(store, sites)
    return store, sites


def distance(a: Weights, b: Weights) -> float:
    return float(sum((a[name] - b[name]).square().sum() for name in a) ** 0.5)


FORMS = [
    {"up": "bf16", "down": "bf16"},
    {"up": "fp16", "down": "fp16", "delta": False},
    INT8,
    {"up": "topk", "topk_share": 0.25},
    {"up": "int8", "down": "fp16"},
]


@pytest.mark.parametrize("transfer", FORMS, ids=lambda each: "-".join(map(str, each.values())))
def test_rounds_in_few_bytes_are_near_those_of_whole_weights(
    transfer: dict[str, Any], tmp_path: Path
) -> None:
    exact, _ = through(tmp_path / "exact", study({}))
    store, sites = through(tmp_path / "few", study(transfer))
    first, last = restore(exact).weights, restore(store).weights
    moved = distance(first, {n: w.detach() for n, w in restore_round(exact, 0).items()})
    share = {"topk": 0.75, "fp16": 0.02}.get(transfer["up"], 0.02)
    assert distance(first, last) < share * moved
    # Both start each round from the same bits.
    for mine, others in zip(sites["a"].received, sites["b"].received, strict=True):
        assert all(torch.equal(mine[name], others[name]) for name in mine)


def restore_round(store: RunStore, number: int) -> Weights:
    from feat_fed.model import read_weights

    return dict(read_weights(store.checkpoint(number)).tensors)


def test_bytes_of_int8_are_told_as_they_are(tmp_path: Path) -> None:
    store, sites = through(tmp_path, study(INT8))
    whole = sum(each.nbytes for each in restore(store).weights.values())
    first, *later = [each.sites[0] for each in store.rounds()]
    headers = 200 * 2 * len(restore(store).weights)
    assert whole <= first.bytes_down <= whole + headers
    for each in (first, *later):
        assert each.bytes_up == sites["a"].sizes[each_round(store, each)]
        assert each.bytes_up < 0.26 * whole + headers
    assert all(each.bytes_down < 0.26 * whole + headers for each in later)


def each_round(store: RunStore, part: Any) -> int:
    return next(n for n, each in enumerate(store.rounds()) if part in each.sites)


def test_what_int8_rounds_on_the_way_down_does_not_add_up(tmp_path: Path) -> None:
    """Each difference contains what the one before has rounded."""
    outbox = Outbox(tmp_path / "outgoing", TransferConfig(down="int8"))
    generator = torch.Generator().manual_seed(1)
    weights = {"w": torch.randn(20, 30, generator=generator)}
    errors = []
    for number in range(8):
        if number < 4:
            weights = {"w": weights["w"] + 1e-2 * torch.randn(20, 30, generator=generator)}
        reference = dict(outbox.prepare(weights, rounds_done=number).reference)
        errors.append(distance(reference, weights))
    assert errors[0] == 0  # sent whole
    assert errors[3] < 1.5 * errors[1]
    assert errors[-1] < 1e-4 * errors[3]  # once the weights stand still


def test_a_server_that_was_killed_sends_nothing_again_and_ends_with_the_same_bytes(
    tmp_path: Path,
) -> None:
    whole, _ = through(tmp_path / "whole", study(INT8))
    sites = hospitals(tmp_path / "cut", a=drift(1), b=drift(2))
    store = RunStore.create(tmp_path / "cut" / "run", study(INT8))

    def killed(told: Assignment, weights: Weights) -> Weights:
        if told.round == 2:
            raise KeyboardInterrupt
        return drift(2)(told, weights)

    sites["b"].train = killed
    with pytest.raises(KeyboardInterrupt):
        run(store, sites)
    sites["b"].train = drift(2)
    grid = run(RunStore(store.root), sites)
    assert [(each.round, each.base == each.weights) for each in grid.asked[:2]] == [(2, True)] * 2
    for name, tensor in restore(whole).weights.items():
        assert torch.equal(tensor, restore(RunStore(store.root)).weights[name])


@pytest.mark.parametrize("transfer", [{}, INT8], ids=["fp32", "int8"])
def test_a_site_that_lost_its_message_is_asked_again_without_weights(
    transfer: dict[str, Any], tmp_path: Path
) -> None:
    sites = hospitals(tmp_path, a=drift(1), b=drift(2))
    sites["b"].fails = [Error(5, "gone"), Error(8, "died")]
    store = RunStore.create(tmp_path / "run", study(transfer))
    run(store, sites)
    first = {each.site: each for each in store.rounds()[0].sites}
    assert first["b"].bytes_down == first["a"].bytes_down
    assert [each.base == each.weights for each in sites["b"].told[:3]] == [False, True, True]


def test_a_site_that_lost_its_store_is_sent_all_at_once_and_the_others_a_difference(
    tmp_path: Path,
) -> None:
    sites = hospitals(tmp_path, a=drift(1), b=drift(2))
    store = RunStore.create(tmp_path / "run", study(INT8))

    def lose(told: Assignment, weights: Weights) -> Weights:
        trained = drift(2)(told, weights)
        if told.round == 1:
            shutil.rmtree(sites["b"].store)
        return trained

    sites["b"].train = lose
    run(store, sites)
    second = {each.site: each for each in store.rounds()[1].sites}
    assert [each.status for each in second.values()] == ["ok", "ok"]
    assert second["b"].bytes_down > 3 * second["a"].bytes_down
    told = [each for each in sites["b"].told if each.round == 2]
    assert [each.base for each in told] == [None]  # the difference came to nothing
    assert all(
        torch.equal(sites["a"].received[1][name], each)
        for name, each in sites["b"].received[1].items()
    )


@pytest.mark.parametrize("lost", ["sites.json", "reference-0001.safetensors", "all of it"])
def test_a_server_that_lost_what_it_noted_sends_all(lost: str, tmp_path: Path) -> None:
    store, sites = through(tmp_path, study(INT8, rounds=2))
    for each in store.outgoing.iterdir():
        if lost in (each.name, "all of it"):
            each.write_bytes(each.read_bytes()[:-9])
    (store.outgoing / "reference-0002.safetensors").unlink()  # of the scoring
    longer = RunStore.resume(store.root, study(INT8, rounds=3))
    before = {name: len(each.told) for name, each in sites.items()}
    run(longer, sites)
    assert [each.round for each in longer.rounds()] == [1, 2, 3]
    for name, each in sites.items():
        assert each.told[before[name]].base is None


def test_a_site_that_lacks_everything_for_ever_ends_nothing(tmp_path: Path) -> None:
    """It says that it has what it says that it lacks, and is sent all of it once a question."""

    class Liar(Hospital):
        def __call__(self, told: Assignment, weights: Weights) -> RecordDict:
            self.told.append(told)
            lacks = report(told, self.name, outcome="failed", code="base", examples=0)
            return to_records(lacks)

    sites = hospitals(tmp_path, a=drift(1), b=drift(2))
    sites["c"] = Liar("c", tmp_path / "c", drift(3))
    store = RunStore.create(tmp_path / "run", study(INT8, rounds=2))
    run(store, sites)
    for each in store.rounds():
        assert {part.site: part.status for part in each.sites} == {
            "a": "ok",
            "b": "ok",
            "c": "failed",
        }
    assert "does not have the weights" in store.rounds()[0].sites[2].reason
    assert len(sites["c"].told) <= 2 * 3 * 3


def test_what_a_refused_update_left_out_does_not_come_with_the_next(tmp_path: Path) -> None:
    sites = hospitals(tmp_path, a=drift(1), b=drift(2), c=drift(3))

    class Refused(Hospital):
        def __call__(self, told: Assignment, weights: Weights) -> RecordDict | Error:
            answer = super().__call__(told, weights)
            if told.round == 2 and told.task == "train" and not isinstance(answer, Error):
                wrong = encode({"w": torch.zeros(3)}, None).buckets
                return to_records(report(told, self.name), wrong)
            return answer

    sites["c"] = Refused("c", tmp_path / "c", drift(3))
    run(RunStore.create(tmp_path / "run", study(INT8)), sites)
    told = {each.round: each.taken for each in sites["c"].told if each.task == "train"}
    assert told == {1: 0, 2: 1, 3: 1}
    others = {each.round: each.taken for each in sites["a"].told if each.task == "train"}
    assert others == {1: 0, 2: 1, 3: 2}


def test_an_update_that_is_used_late_is_still_that_of_its_round() -> None:
    def record(number: int, *parts: SiteRound) -> RoundRecord:
        return RoundRecord(
            round=number,
            started_at="2026-01-31T12:00:00+00:00",
            seconds=1,
            train_loss=None,
            heldout_loss=None,
            sites=parts,
        )

    late = SiteRound(site="a", status="ok", answers_round=2)
    dropped = SiteRound(site="b", status="late")
    rounds = [record(3, late, dropped)]
    assert last_taken({"a": 1, "b": 1, "c": 0}, rounds) == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(("transfer", "within"), [({}, 1e-4), (INT8, 5e-3)], ids=["fp32", "int8"])
def test_a_fixed_study_learns_as_it_does_in_whole_weights(
    transfer: dict[str, Any], within: float, tmp_path: Path
) -> None:
    golden = json.loads(GOLDEN.read_text())["heldout"]
    clips = {"a": Waves(0.4, 5), "b": Waves(0.9, 3)}
    told_losses: dict[tuple[int, str], float] = {}

    def training(name: str) -> Training:
        def train(told: Assignment, weights: Weights) -> Weights:
            seed = derive_seed(told.study.seed, name, told.round)
            job = job_of(told.study, weights, seed, told.round)
            result = train_round(job, train=clips[name], heldout=clips[name], hooks=RoundHooks())
            told_losses[told.round, name] = result.heldout_loss or 0.0
            return dict(result.weights)

        return train

    config = GOLDEN_STUDY.model_dump() | {
        "transfer": transfer,
        "sites": {"minimum": 2, "round_sec": 60, "settle_sec": 0.2},
        "training": GOLDEN_STUDY.training.model_dump() | {"engine": "torch"},
        "rounds": 4,
    }
    sites = hospitals(tmp_path, a=training("a"), b=training("b"))
    for name, each in sites.items():
        each.examples = clips[name].num_clips
    run(RunStore.create(tmp_path / "run", StudyConfig.model_validate(config)), sites)
    scores = [told_losses[number, name] for number in range(1, 5) for name in ("a", "b")]
    assert scores == pytest.approx(golden, rel=within)
