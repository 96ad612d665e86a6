"""Seeds, devices, averages and weights against values worked out by hand."""

import hashlib

import pytest
import torch
from torch import nn

from feat_fed.config import ComputeConfig
from feat_fed.errors import CheckpointError, ConfigError
from feat_fed.train import (
    cpu_threads,
    derive_seed,
    ema_update,
    load_weights,
    resolve_device,
    weights_of,
)


def test_a_seed_is_the_documented_hash() -> None:
    digest = hashlib.sha256(b'[3,"site-a",1]').hexdigest()
    assert derive_seed(3, "site-a", 1) == int(digest[:16], 16) // 2
    torch.Generator().manual_seed(derive_seed("any"))


def test_seeds_differ_by_value_order_type_and_grouping() -> None:
    parts = [(1, 2), (2, 1), ("1", 2), (12,), ("1,2",), ("a", "bc"), ("ab", "c"), (), ("é",)]
    assert len({derive_seed(*each) for each in parts}) == len(parts)


def test_devices() -> None:
    assert resolve_device(ComputeConfig(device="cpu")) == torch.device("cpu")


def test_cuda_asked_for_and_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(ComputeConfig(device="auto")).type == "cpu"
    with pytest.raises(ConfigError, match="set device: cpu"):
        resolve_device(ComputeConfig(device="cuda"))


def test_threads_are_set_inside_and_put_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(3):
        assert torch.get_num_threads() == 3
    with cpu_threads(0):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_ema_is_the_weighted_mean_and_copies_integers() -> None:
    average = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3)}
    weights = {"w": torch.tensor([5.0, -2.0]).bfloat16(), "steps": torch.tensor(9)}
    new = ema_update(average, weights, decay=0.75)
    torch.testing.assert_close(new["w"], torch.tensor([2.0, 1.0]))
    assert new["steps"].item() == 9
    assert average["w"].tolist() == [1.0, 2.0]
    assert list(new) == list(weights)
    with pytest.raises(CheckpointError):
        ema_update(average, {"w": weights["w"]}, decay=0.5)


def test_weights_are_copies_in_float32() -> None:
    model = nn.BatchNorm1d(2).double()
    weights = weights_of(model)
    assert weights["running_mean"].dtype == torch.float32
    assert weights["num_batches_tracked"].dtype == torch.int64
    weights["weight"].zero_()
    assert model.weight.sum() == 2
    load_weights(model, weights)
    assert model.weight.sum() == 0


def test_nothing_is_loaded_when_one_tensor_does_not_fit() -> None:
    model = nn.Linear(2, 2)
    before = weights_of(model)
    spoilt = {"weight": torch.zeros(2, 2), "bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="bias has shape"):
        load_weights(model, spoilt)
    assert torch.equal(model.weight, before["weight"])
