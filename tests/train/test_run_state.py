"""A run's state on disk: what is read back, what is passed over, what is kept."""

from pathlib import Path

import pytest
import torch

from feat_fed.config import CheckpointsConfig, StudyConfig
from feat_fed.errors import StorageError
from feat_fed.report import RoundRecord
from feat_fed.report.run_store import RunStore
from feat_fed.train.rotation import rotate, rounds_to_keep
from feat_fed.train.run_state import GlobalState, restore, save

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "rounds": 9,
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 16},
    }
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run with three rounds done."""
    store = RunStore.create(tmp_path / "run", STUDY)
    state = restore(store)
    for _ in range(3):
        state = moved(state)
        save(store, state)
    return store


def moved(state: GlobalState) -> GlobalState:
    weights = {name: each + 1 for name, each in state.weights.items()}
    momentum = {"momentum/x": torch.full((2,), float(state.rounds_done))}
    standing = {"offences": {"a": state.rounds_done}}
    return state.after_round(weights, ema_decay=0.5, optimiser=momentum, standing=standing)


def flip_last(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_state_comes_back_whole(store: RunStore) -> None:
    state = restore(store)
    assert state.rounds_done == 3
    assert state.optimiser["momentum/x"].tolist() == [2.0, 2.0]
    assert state.standing == {"offences": {"a": 2}}
    assert store.summary().warnings == ()


@pytest.mark.parametrize("file", ["checkpoint", "ema", "optimiser", "manifest"])
def test_a_damaged_newest_round_is_set_aside_and_told(file: str, store: RunStore) -> None:
    flip_last(getattr(store, file)(3))
    assert restore(store).rounds_done == 2
    assert restore(store).standing == {"offences": {"a": 1}}
    folder = store.manifest(3).parent
    assert len(list(folder.glob("*-0003.*.damaged"))) == 4
    [warning] = store.summary().warnings
    assert "round 3 were damaged" in warning
    assert store.latest_round() == 2


def test_files_of_different_times_are_no_round(store: RunStore) -> None:
    store.checkpoint(3).write_bytes(store.checkpoint(2).read_bytes())  # whole, but another one
    assert restore(store).rounds_done == 2


def test_a_round_without_a_manifest_is_not_done(store: RunStore) -> None:
    store.manifest(3).unlink()
    assert store.latest_round() == 2
    assert restore(store).rounds_done == 2


def test_a_run_of_before_manifests_goes_on(store: RunStore) -> None:
    for number in range(4):
        store.manifest(number).unlink()
    state = restore(store)
    assert (state.rounds_done, state.optimiser) == (3, {})
    assert store.manifest(3).exists()


def test_parts_of_killed_processes_are_removed(store: RunStore) -> None:
    part = store.checkpoint(4).with_name(".round-0004.999999999-0123abcd.safetensors")
    part.touch()
    restore(store)
    assert not part.exists()


def test_a_full_disk_is_told_and_costs_no_round(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = moved(restore(store))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("feat_fed.train.run_state.write_bytes_atomically", full)
        with pytest.raises(StorageError, match="No space left"):
            save(store, state)
    assert restore(store).rounds_done == 3


def record(number: int, loss: float | None) -> RoundRecord:
    return RoundRecord(
        round=number,
        started_at="2026-01-31T12:00:00+00:00",
        seconds=1,
        train_loss=1.0,
        heldout_loss=loss,
        sites=(),
    )


def test_the_best_round_is_the_one_before_the_record_that_scored_it(store: RunStore) -> None:
    for number, loss in ((1, 0.9), (2, 0.1), (3, 0.5)):  # of rounds 0, 1 and 2
        store.append(record(number, loss))
    state = restore(store)
    for _ in range(2):
        state = moved(state)
        save(store, state)
    rotate(store)
    assert store.done_rounds() == [0, 1, 3, 4, 5]
    assert store.rounds_with_files() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"keep_best": 0}, {0, 8, 9, 10}),
        ({"keep_last": 2, "keep_best": 0, "keep_every": 4}, {0, 4, 8, 9, 10}),
        ({"keep_last": 2, "keep_best": 2}, {0, 3, 5, 9, 10}),
    ],
)
def test_the_last_the_best_and_each_nth_round_are_kept(
    fields: dict[str, int], kept: set[int]
) -> None:
    scores = {3: 0.2, 5: 0.2, 7: 0.2, 6: 0.3}
    config = CheckpointsConfig.model_validate(fields)
    assert rounds_to_keep(config, done=list(range(11)), scores=scores) == kept
