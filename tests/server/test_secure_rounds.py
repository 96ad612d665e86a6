"""Rounds with secure aggregation: the sum comes out, whoever drops out when."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from feat_fed.audit import lines
from feat_fed.errors import FederationError
from feat_fed.joining import public_text
from feat_fed.model.checkpoint import read_weights
from feat_fed.protocol import Assignment, Task
from feat_fed.report.run_store import RunStore
from feat_fed_client.keys import identity_key, make_site_key
from feat_fed_server import secure_state
from masking_hospitals import Fault, Hospitals, SecureGrid, run_secure, secure_study, well

SHIFTS = {"a": 0.5, "b": -0.25, "c": 0.125, "d": 1.0}


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospitals:
    return Hospitals(tmp_path, monkeypatch, SHIFTS)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", secure_study())


def weights(store: RunStore, number: int) -> dict[str, Tensor]:
    return read_weights(store.checkpoint(number), kind="global", model=store.study.model).tensors


def move(store: RunStore, number: int = 1) -> float:
    """By how much a round has moved the weights; by the same everywhere."""
    before, after = (weights(store, each) for each in (number - 1, number))
    moves = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert moves.max() - moves.min() < 1e-5
    return float(moves.double().mean())


def mean(sites: str) -> float:
    return sum(SHIFTS[each] for each in sites) / len(sites)


def on(site: str, task: Task, attempt: int | None = None) -> Fault:
    def is_now(name: str, assignment: Assignment) -> bool:
        asked = (assignment.task, attempt or assignment.attempt)
        return name in site and asked == (task, assignment.attempt)

    return is_now


def events(store: RunStore, kind: str) -> list[dict[str, Any]]:
    found = (each.event for each in lines(store.root / "audit"))
    return [each for each in found if each["kind"] == kind]


def test_the_mean_is_that_of_the_updates(tmp_path: Path, hospitals: Hospitals) -> None:
    store = RunStore.create(tmp_path / "run", secure_study(rounds=2))
    grid = SecureGrid(hospitals)
    run_secure(store, grid)
    for number in (1, 2):
        assert move(store, number) == pytest.approx(mean("abcd"), abs=1e-6)
    assert grid.tasks_of("a") == 2 * ["keys", "shares", "train", "unmask"] + ["evaluate"]
    assert [each.status for each in store.rounds()[0].sites] == ["ok"] * 4


@pytest.mark.parametrize(
    ("deaf", "mute", "in_the_sum"),
    [
        (on("d", "keys"), None, "abc"),
        (on("d", "shares"), None, "abc"),
        (on("d", "train"), None, "abc"),
        (None, on("d", "train"), "abc"),
        (on("d", "unmask"), None, "abcd"),
    ],
    ids=["before keys", "after keys", "after shares", "after training", "at unmasking"],
)
def test_a_site_may_drop_out_at_any_stage(
    deaf: Fault | None,
    mute: Fault | None,
    in_the_sum: str,
    store: RunStore,
    hospitals: Hospitals,
) -> None:
    faults = {name: each for name, each in (("deaf", deaf), ("mute", mute)) if each}
    run_secure(store, SecureGrid(hospitals, **faults))
    assert move(store) == pytest.approx(mean(in_the_sum), abs=1e-6)
    [unmasked] = events(store, "sum-unmasked")
    assert "".join(unmasked["sites"]) == in_the_sum


def test_too_few_shares_and_the_round_begins_again_with_new_keys(
    store: RunStore, hospitals: Hospitals, caplog: pytest.LogCaptureFixture
) -> None:
    grid = SecureGrid(hospitals, deaf=on("cd", "shares", attempt=1))
    run_secure(store, grid)
    assert move(store) == pytest.approx(mean("abcd"), abs=1e-6)
    assert "begins again with new keys" in caplog.text
    assert "2 sites have dealt shares; the study needs 3" in caplog.text
    [given_up] = events(store, "masks-given-up")
    assert given_up == {"kind": "masks-given-up", "round": 1, "attempt": 1, "sites": ["a", "b"]}


def test_a_round_that_begins_again_is_not_trained_again(
    tmp_path: Path, hospitals: Hospitals
) -> None:
    study = secure_study(sites={"per_round": 3})
    store = RunStore.create(tmp_path / "run", study)
    grid = SecureGrid(hospitals)
    first: list[str] = []

    def silent(name: str, assignment: Assignment) -> bool:
        """Of the three sites that are drawn, the first that is asked to train never answers."""
        if assignment.task == "train" and not first:
            first.append(name)
        return assignment.task == "train" and name == first[0]

    grid.deaf = silent
    run_secure(store, grid)
    others = {*SHIFTS} - {*first}
    assert move(store) == pytest.approx(mean("".join(others)), abs=1e-6)
    assert sorted(hospitals.trained) == [(name, 1) for name in sorted(others)]
    assert {attempt for _, task, attempt in grid.seen if task == "train"} == {1, 2}


def test_a_round_that_stays_without_sites_is_given_up(
    store: RunStore, hospitals: Hospitals
) -> None:
    grid = SecureGrid(hospitals, deaf=on("cd", "train"))
    with pytest.raises(
        FederationError, match=r"2 sites have sent masked up.* needs 3; c: no answer"
    ):
        run_secure(store, grid)
    grid.deaf = well
    run_secure(store, grid)
    assert move(store) == pytest.approx(mean("abcd"), abs=1e-6)
    assert sorted(hospitals.trained) == [(name, 1) for name in "abcd"]


def test_a_sum_that_cannot_be_unmasked_yet_stays_that_sum(
    store: RunStore, hospitals: Hospitals
) -> None:
    grid = SecureGrid(hospitals, deaf=on("cd", "unmask"))
    with pytest.raises(FederationError, match="when these sites are back"):
        run_secure(store, grid)
    again = SecureGrid(hospitals, deaf=on("d", "unmask"))
    run_secure(store, again)
    assert move(store) == pytest.approx(mean("abcd"), abs=1e-6)
    assert [task for task in again.tasks_of("c") if task != "evaluate"] == ["unmask"]
    assert again.tasks_of("a") == ["evaluate"]


@pytest.mark.parametrize("dies_at", [2, 5, 8, 9, 11, 13])
def test_a_server_that_is_killed_in_any_stage_goes_on_there(
    dies_at: int, store: RunStore, hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has written the n-th answer: of keys, of shares, that all are there, and so on."""
    written, write = 0, secure_state.write_state

    def counted(*arguments: Any) -> None:
        nonlocal written
        if written == dies_at:
            written += 1
            raise Killed
        written += 1
        write(*arguments)

    monkeypatch.setattr(secure_state, "write_state", counted)
    grid = SecureGrid(hospitals)
    with pytest.raises(Killed):
        run_secure(store, grid)
    run_secure(RunStore(store.root), grid)
    assert move(store) == pytest.approx(mean("abcd"), abs=1e-6)
    assert sorted(hospitals.trained) == [(name, 1) for name in "abcd"]
    assert {attempt for _, _, attempt in grid.seen} == {1, None}


def test_with_central_privacy_sites_clip_and_the_sum_is_noised(
    tmp_path: Path, hospitals: Hospitals
) -> None:
    central = {"noise_multiplier": 1e-3, "clip_norm": 1.0, "clipping": "adaptive"}
    study = secure_study(privacy={"secure_aggregation": {}, "central": central})
    store = RunStore.create(tmp_path / "run", study)
    run_secure(store, SecureGrid(hospitals))
    before, after = (weights(store, each) for each in (0, 1))
    moves = torch.cat([(after[name] - before[name]).flatten() for name in before]).double()
    each = len(moves) ** -0.5  # of a vector of length 1 with equal parts
    assert float(moves.mean()) == pytest.approx((3 - 1) / 4 * each, rel=0.01)
    assert 0.5e-3 / 4 < float(moves.std()) < 2e-3 / 4
    [record] = store.rounds()
    assert record.central is not None and record.central.share_within is not None


def test_keys_that_are_not_the_registered_sites_are_refused(
    store: RunStore, hospitals: Hospitals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = hospitals.sites["d"]
    (site.store / "virtual-site.key").unlink()
    (site.store / "virtual-site.pub").unlink()
    make_site_key(site.store / "virtual-site.key")
    assert public_text(identity_key(site).public_key()) != hospitals.public["d"]
    run_secure(store, SecureGrid(hospitals))
    assert move(store) == pytest.approx(mean("abc"), abs=1e-6)
    [refused] = [each for each in store.rounds()[0].sites if each.status == "refused"]
    assert (refused.site, refused.code) == ("d", "agreement")


def test_no_update_is_in_the_runs_folder_but_the_sum(
    store: RunStore, hospitals: Hospitals, caplog: pytest.LogCaptureFixture
) -> None:
    """Looked for with all masked updates there, in every form that a single one could have."""
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []

    def look(name: str, assignment: Assignment) -> bool:
        if assignment.task == "unmask" and not seen:
            files = (each for each in store.root.rglob("*") if each.is_file())
            seen.extend(each.read_bytes() for each in files)
        return False

    run_secure(store, SecureGrid(hospitals, deaf=look))
    name = max(weights(store, 0), key=lambda each: weights(store, 0)[each].numel())
    start = weights(store, 0)[name].flatten()[:16]
    assert any(start.numpy().tobytes() in each for each in seen)  # what would be found is found
    step = 2.0**-28
    for shift in SHIFTS.values():
        moved = start + shift
        scaled = ((moved - start).double() / step).to(torch.int32)
        for trace in (moved, moved - start, moved.double(), scaled):
            pattern = trace.numpy().tobytes()
            assert not any(pattern in each for each in seen)
