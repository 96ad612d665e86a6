"""Bad updates as real messages through the round loop: each is refused and changes no bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import Tensor

from fake_sites import STUDY, Answer, FakeGrid, Weights, honest, report, run
from feat_fed.federate import pack
from feat_fed.protocol import Assignment
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import restore
from feat_fed.wire import to_records
from feat_fed_server.standing import standing_of

GOOD = {
    "a": honest("a", 1.0, 2),
    "b": honest("b", 1.1, 3),
    "d": honest("d", 0.9, 4),
    "e": honest("e", -1.0, 5),
}


def sends(change: Callable[[Weights], Weights], **told: Any) -> Answer:
    """The bad site answers everything with these weights and this report."""
    return lambda a, w: to_records(report(a, "c", **told), pack(change(w)))


def everywhere(value: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {name: value(each) for name, each in weights.items()}


def first(value: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, (n := min(weights)): value(weights[n])}


def moved(weights: Weights) -> Weights:
    return {name: each + 0.3 for name, each in weights.items()}


def lies(**told: Any) -> Answer:
    """A report whose JSON no honest site could write."""

    def answer(assignment: Assignment, weights: Weights) -> RecordDict:
        header = {**json.loads(report(assignment, "c").model_dump_json()), **told}
        records = to_records(report(assignment, "c"), pack(moved(weights)))
        return RecordDict({**records, "config": ConfigRecord({"feat-fed": json.dumps(header)})})

    return answer


def copies(assignment: Assignment, weights: Weights) -> RecordDict:
    of_a = {name: each + 1.0 for name, each in weights.items()}  # as a has it
    return to_records(report(assignment, "c"), pack(of_a))


class Replays:
    """Fails in round 1 and sends in round 2 what another site had sent."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def __call__(self, assignment: Assignment, weights: Weights) -> RecordDict:
        if assignment.round == 1:
            self.kept = pack({name: each + 1.0 for name, each in weights.items()})
            return to_records(report(assignment, "c", outcome="failed", code="data", examples=0))
        return to_records(report(assignment, "c"), self.kept)


BAD: dict[str, tuple[Callable[[], Answer], str]] = {
    "nan": (lambda: sends(first(lambda t: t * torch.nan)), "not-finite"),
    "inf": (lambda: sends(first(lambda t: t / 0)), "not-finite"),
    "huge": (lambda: sends(first(lambda t: t + 1e30)), "moved"),
    "largest": (lambda: sends(everywhere(lambda t: torch.full_like(t, 3e38))), "moved"),
    "large": (lambda: sends(everywhere(lambda t: t + 500.0)), "norm"),
    "zero": (lambda: sends(everywhere(torch.zeros_like)), "zero"),
    "unchanged": (lambda: sends(lambda w: w), "unchanged"),
    "missing": (lambda: sends(lambda w: dict(list(moved(w).items())[1:])), "tensors"),
    "extra": (lambda: sends(lambda w: {**moved(w), "x": torch.zeros(1)}), "tensors"),
    "none": (lambda: lambda a, w: to_records(report(a, "c")), "tensors"),
    "misshapen": (lambda: sends(first(lambda t: t[None])), "tensors"),
    "broadcastable": (lambda: sends(first(lambda t: t.flatten()[:1])), "tensors"),
    "half": (lambda: sends(first(lambda t: t.half())), "tensors"),
    "integers": (lambda: sends(first(lambda t: t.to(torch.int32))), "tensors"),
    "no tensors": (lambda: lambda a, w: to_records(report(a, "c"), [b"x" * 99]), "form"),
    "replayed": (Replays, "replay"),
    "copied": (lambda: copies, "copy"),
    "wrong round": (lambda: sends(moved, round=9), "round"),
    "wrong study": (lambda: sends(moved, study_id="0" * 32), "study"),
    "wrong task": (lambda: sends(moved, task="evaluate"), "task"),
    "wrong name": (lambda: lambda a, w: to_records(report(a, "a"), pack(moved(w))), "name"),
    "no steps": (lambda: sends(moved, steps=0), "steps"),
    "too many steps": (lambda: sends(moved, steps=101), "steps"),
    "negative weight": (lambda: lies(examples=-5), "form"),
    "no weight": (lambda: lies(examples=0), "form"),
    "endless weight": (lambda: lies(examples=10**40), "form"),
    "giant weight": (lambda: sends(moved, examples=10**9), "share"),
    "endless loss": (lambda: lies(heldout_loss=1e308), "form"),
    "no number": (lambda: lies(train_loss=float("nan")), "form"),
}


_undisturbed: dict[int, Weights] = {}


def undisturbed(folder: Path, rounds: int) -> Weights:
    """The weights of a run without the bad site, made once."""
    if rounds not in _undisturbed:
        store = RunStore.create(folder, STUDY.model_copy(update={"rounds": rounds}))
        run(store, GOOD)
        _undisturbed[rounds] = restore(store).weights
    return _undisturbed[rounds]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_refused_and_the_run_is_as_if_it_had_not_been(
    kind: str, tmp_path: Path
) -> None:
    make, code = BAD[kind]
    rounds = 2 if kind == "replayed" else 1
    store = RunStore.create(tmp_path / "run", STUDY.model_copy(update={"rounds": rounds}))
    grid = run(store, {**GOOD, "c": make()})
    weights, expected = restore(store).weights, undisturbed(tmp_path / "good", rounds)
    assert all(torch.equal(weights[name], each) for name, each in expected.items())
    last = {each.site: each for each in store.rounds()[-1].sites}
    assert last["c"].status == "refused"
    assert last["c"].reason
    assert {each.status for site, each in last.items() if site != "c"} == {"ok"}
    assert standing_of(store).of("c").offences[-1].code == code
    assert told_to(grid, "c")[-1] == (rounds, code)  # with the scoring
    assert store.summary().state == "complete"


def told_to(grid: FakeGrid, site: str) -> list[tuple[int, str | None]]:
    """The verdicts that a site was given: of which round, and which code."""
    verdicts = [
        each.verdict for name, each in zip(grid.asked_of, grid.asked, strict=True) if name == site
    ]
    return [(each.round, each.code) for each in verdicts if each]


def test_who_keeps_sending_bad_updates_is_not_asked_until_readmitted(tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"rounds": 4})
    store = RunStore.create(tmp_path / "run", study)
    grid = run(store, {**GOOD, "c": sends(lambda w: w)})
    asked = [a.round for name, a in zip(grid.asked_of, grid.asked, strict=True) if name == "c"]
    assert asked == [1, 2, 3]
    assert [len(each.sites) for each in store.rounds()] == [5, 5, 5, 4]
    assert told_to(grid, "c") == [(1, "unchanged"), (2, "unchanged")]
    assert told_to(grid, "a")[-1] == (4, None)
