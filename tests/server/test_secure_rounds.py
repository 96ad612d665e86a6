"""Rounds with secure aggregation: the sum comes out, whoever drops out when."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from feat_fed.model.state import state_schema
from feat_fed.report.run_store import RunStore
from feat_fed.train.run_state import restore
from secure_sites import Hospitals, SecureGrid, run_secure, secure_study

SHIFTS = {"a": 0.5, "b": -0.25, "c": 0.125, "d": 1.0}


@pytest.fixture
def hospitals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospitals:
    return Hospitals(tmp_path, monkeypatch, SHIFTS)


def moved(store: RunStore) -> Tensor:
    """By how much the study has moved each weight, flat."""
    from feat_fed.model.checkpoint import read_weights

    model = store.study.model
    first = read_weights(store.checkpoint(0), kind="global", model=model).tensors
    last = restore(store).weights
    names = sorted(state_schema(model))
    return torch.cat([(last[name].double() - first[name].double()).flatten() for name in names])


def mean(*sites: str) -> float:
    return sum(SHIFTS[each] for each in sites) / len(sites)


def test_the_mean_is_that_of_the_updates(tmp_path: Path, hospitals: Hospitals) -> None:
    store = RunStore.create(tmp_path / "run", secure_study(rounds=2))
    grid = SecureGrid(hospitals)
    run_secure(store, grid)
    assert moved(store).sub(2 * mean(*"abcd")).abs().max() < 1e-5
    assert grid.tasks_of("a")[:4] == ["keys", "shares", "train", "unmask"]
