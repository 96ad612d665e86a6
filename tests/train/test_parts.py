"""Seeds, devices, averages and weights against values worked out by hand."""

import hashlib
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from feat_fed.config import ComputeConfig
from feat_fed.errors import CheckpointError, ConfigError, DeviceError, MemoryShortError
from feat_fed.train import (
    cpu_threads,
    derive_seed,
    ema_update,
    load_weights,
    resolve_device,
    weights_of,
)
from feat_fed.train.device import on_device, threads_of
from feat_fed.train.faults import torch_errors
from feat_fed.train.peers import Peers


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


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.usefixtures("three_gpus")
def test_gpus_by_number_and_by_name() -> None:
    def numbers(devices: object, **more: object) -> list[int | None]:
        compute = ComputeConfig.model_validate({"devices": devices} | more)
        return [resolve_device(compute, rank).index for rank in range(compute.num_devices)]

    assert numbers(1) == [0]
    assert numbers(3) == [0, 1, 2]
    assert numbers([2]) == [2]
    assert numbers([2, 0], device="cuda") == [2, 0]
    assert resolve_device(ComputeConfig(device="cpu", devices=2), 1) == torch.device("cpu")


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(("devices", "message"), [(4, "4 GPUs"), ((1, 3), "2 GPUs.*number 3")])
def test_gpus_that_are_not_there_are_refused_with_both_numbers(
    devices: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{message}.*torch finds 3"):
        resolve_device(ComputeConfig.model_validate({"devices": devices}))


def test_named_gpus_are_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"names the GPUs \[1\].*finds 0 GPUs"):
        resolve_device(ComputeConfig(devices=(1,)))


def test_processes_share_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert threads_of(ComputeConfig(devices=1)) == 0, "torch's own choice"
    assert threads_of(ComputeConfig(devices=3)) == 5
    assert threads_of(ComputeConfig(devices=3, threads=2)) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert threads_of(ComputeConfig(devices=8)) == 1


def test_a_gpu_is_lent_in_part_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 40))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given)
    )
    second = torch.device("cuda", 1)
    with on_device(second, memory_share=0.5):
        assert asked == [(0.375, second)], "half of what is free"
    assert asked[1:] == [(1.0, second)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryShortError),
        (MemoryError(), MemoryShortError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), MemoryShortError),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceError),
        (RuntimeError("NCCL error in: x.cpp, unhandled cuda error"), DeviceError),
        (RuntimeError("a view is not compatible"), RuntimeError),
        (ValueError("CUDA error"), ValueError),
    ],
)
def test_errors_of_memory_and_devices_are_told_apart(
    error: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised, torch_errors():
        raise error
    assert type(raised.value) is kind


@pytest.mark.parametrize(("number", "size"), [(5, 2), (1, 3), (8, 4), (0, 2)])
def test_shares_are_all_and_about_equal(number: int, size: int) -> None:
    shares = [Peers(rank, size).share(number) for rank in range(size)]
    assert [each for share in shares for each in share] == list(range(number))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) == Peers(0, size).largest_share(number)


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
