"""Streaming aggregation against numpy and against Flower's strategies called whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
)
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import Tensor

from aggregating import filled_inbox
from feat_fed.config import StrategyConfig
from feat_fed.errors import FederationError
from feat_fed.protocol import Report
from feat_fed_server import strategy as strategy_module
from feat_fed_server.flower_arrays import to_arrays
from feat_fed_server.strategy import build_strategy

Weights = dict[str, Tensor]
SHAPES = {"a.weight": (7, 5), "b.bias": (3,), "c.scale": ()}
SITES = {"x": 2, "y": 5, "z": 1, "u": 9, "v": 4}


def random_weights(seed: int, scale: float = 1.0) -> Weights:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def report(site: str, **fields: Any) -> Report:
    told = {"study_id": "0" * 32, "round": 1, "task": "train", "site": site, "outcome": "ok"}
    return Report.model_validate({**told, "examples": 1, "steps": 1, **fields})


def updates_of(previous: Weights, seed: int = 0) -> list[tuple[Report, Weights]]:
    changes = {site: random_weights(100 * seed + at, 0.1) for at, site in enumerate(SITES)}
    return [
        (report(site, examples=SITES[site]), {n: previous[n] + each[n] for n in previous})
        for site, each in changes.items()
    ]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_module, "GROUP_BYTES", 100)  # a tensor or two at a time


def streamed(
    folder: Path, config: StrategyConfig, rounds: int = 3, previous: Weights | None = None
) -> tuple[Weights, Weights]:
    weights, state = previous or random_weights(1), dict[str, Tensor]()
    for number in range(1, rounds + 1):
        # Built anew each round, as by a server that was killed.
        inbox = filled_inbox(folder / str(number), updates_of(weights, number), weights)
        weights, state = build_strategy(config).aggregate(number, inbox, weights, state)
    return weights, state


def whole(flower: FlowerStrategy, rounds: int = 3) -> Weights:
    """The same by Flower alone: all replies and all tensors at once, one living object."""
    weights = random_weights(1)
    for number in range(1, rounds + 1):
        if hasattr(flower, "current_arrays"):
            adaptive = isinstance(flower, FedAdam | FedYogi | FedAdagrad)
            arrays = {n: each.numpy() for n, each in weights.items()}
            flower.current_arrays = arrays if adaptive else to_arrays(weights)
        replies = [
            Message(
                RecordDict(
                    {
                        "arrays": to_arrays(each),
                        "metrics": MetricRecord({"num-examples": told.examples}),
                    }
                ),
                dst_node_id=1,
                message_type="train",
            )
            for told, each in sorted(updates_of(weights, number), key=lambda pair: pair[0].site)
        ]
        arrays, _ = flower.aggregate_train(number, replies)
        assert arrays is not None
        weights = {n: torch.from_numpy(arrays[n].numpy()).float() for n in weights}
    return weights


MOMENTS = {"eta": 0.05, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}
OURS = {"server_learning_rate": 0.05, "server_momentum": 0.8, "server_beta_2": 0.9}
CASES: dict[str, tuple[dict[str, Any], FlowerStrategy]] = {
    "fedavg": ({}, FedAvg()),
    "fedavgm": (
        {"server_learning_rate": 0.7, "server_momentum": 0.8},
        FedAvgM(server_learning_rate=0.7, server_momentum=0.8),
    ),
    "fedadam": ({**OURS, "server_tau": 0.01}, FedAdam(**MOMENTS)),
    "fedyogi": ({**OURS, "server_tau": 0.01}, FedYogi(**MOMENTS)),
    "fedadagrad": (
        {"server_learning_rate": 0.05, "server_tau": 0.01},
        FedAdagrad(eta=0.05, tau=0.01),
    ),
    "median": ({}, FedMedian()),
    "trimmed-mean": ({"trim_fraction": 0.2}, FedTrimmedAvg(beta=0.2)),
}


@pytest.mark.parametrize("kind", CASES)
def test_streaming_gives_the_bytes_of_flower_called_whole(kind: str, tmp_path: Path) -> None:
    options, flower = CASES[kind]
    weights, _ = streamed(tmp_path, StrategyConfig.model_validate({"kind": kind, **options}))
    expected = whole(flower)
    for name, tensor in weights.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name


def stacked(updates: list[tuple[Report, Weights]], name: str) -> np.ndarray:
    return np.stack([each[name].double().numpy() for _, each in updates])


@pytest.mark.parametrize("weigh_by", ["clips", "patients", "steps", "equal"])
def test_the_mean_weighs_by_what_the_study_says(weigh_by: str, tmp_path: Path) -> None:
    previous = random_weights(1)
    counts = {"clips": [1, 2, 3], "patients": [4, 1, 1], "steps": [7, 8, 9], "equal": [1, 1, 1]}
    updates = [
        (
            report(
                site,
                examples=counts["clips"][at],
                patients=counts["patients"][at],
                steps=counts["steps"][at],
            ),
            random_weights(at),
        )
        for at, site in enumerate("abc")
    ]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    config = StrategyConfig.model_validate({"weigh_by": weigh_by})
    new, state = build_strategy(config).aggregate(1, inbox, previous, {})
    assert state == {}
    for name in SHAPES:
        expected = np.average(stacked(updates, name), axis=0, weights=counts[weigh_by])
        np.testing.assert_allclose(new[name].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_one_update_is_that_update(tmp_path: Path) -> None:
    previous, only = random_weights(1), random_weights(2)
    inbox = filled_inbox(tmp_path / "inbox", [(report("a", examples=7), only)], previous)
    new, _ = build_strategy(StrategyConfig()).aggregate(1, inbox, previous, {})
    assert all(torch.equal(new[name], only[name]) for name in only)


def test_one_giant_update_moves_neither_median_nor_trimmed_mean_nor_krum(tmp_path: Path) -> None:
    previous = random_weights(1)
    good = updates_of(previous)
    bad = {name: each + 1e6 for name, each in previous.items()}
    for kind in ("median", "trimmed-mean", "krum"):
        config = StrategyConfig.model_validate({"kind": kind})
        updates = [*good[:-1], (report("v"), bad)]
        inbox = filled_inbox(tmp_path / kind, updates, previous)
        new, _ = build_strategy(config).aggregate(1, inbox, previous, {})
        assert max(float((new[n] - previous[n]).abs().max()) for n in previous) < 1


def krum_by_hand(
    updates: list[tuple[Report, Weights]], *, malicious: int, keep: int
) -> tuple[str, ...]:
    flat = np.stack(
        [np.concatenate([each[n].double().flatten() for n in SHAPES]) for _, each in updates]
    )
    distances = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    nearest = len(updates) - malicious - 2
    scores = [np.sort(np.delete(row, at))[:nearest].sum() for at, row in enumerate(distances)]
    return tuple(sorted(updates[at][0].site for at in np.argsort(scores)[:keep]))


@pytest.mark.parametrize(("malicious", "keep"), [(0, 1), (1, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_krum_keeps_whom_the_definition_keeps(
    seed: int, malicious: int, keep: int, tmp_path: Path
) -> None:
    previous = {name: 1000 * each for name, each in random_weights(1).items()}  # cancels badly
    updates = updates_of(previous, seed)
    kept = krum_by_hand(updates, malicious=malicious, keep=keep)
    config = StrategyConfig(kind="krum", malicious_sites=malicious, keep_sites=keep)
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    new, _ = build_strategy(config).aggregate(1, inbox, previous, {})
    chosen = [pair for pair in updates if pair[0].site in kept]
    counts = [told.examples for told, _ in chosen]
    for name in SHAPES:
        expected = np.average(stacked(chosen, name), axis=0, weights=counts)
        np.testing.assert_allclose(new[name].numpy(), expected, rtol=1e-5)


def test_halves_are_averaged_in_float32_and_counters_stay_the_servers(tmp_path: Path) -> None:
    previous = {
        "half": torch.zeros(1, dtype=torch.float16),
        "bf16": torch.zeros(1, dtype=torch.bfloat16),
        "double": torch.zeros(1, dtype=torch.float64),
        "count": torch.tensor([3]),
        "mask": torch.tensor([True]),
    }
    sent = {
        "half": torch.tensor([60000.0], dtype=torch.float16),
        "bf16": torch.tensor([1.5], dtype=torch.bfloat16),
        "double": torch.tensor([1 / 3], dtype=torch.float64),
        "count": torch.tensor([9]),
        "mask": torch.tensor([False]),
    }
    updates = [(report(site, examples=10**6), sent) for site in "ab"]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    new, _ = build_strategy(StrategyConfig()).aggregate(1, inbox, previous, {})
    for name in ("half", "bf16", "double"):
        assert new[name].dtype == sent[name].dtype
        assert torch.equal(new[name], sent[name])
    assert new["count"] == 3
    assert bool(new["mask"])


def test_an_optimiser_that_overflows_ends_the_round_and_spoils_nothing(tmp_path: Path) -> None:
    previous = {"w": torch.zeros(1)}
    inbox = filled_inbox(tmp_path / "inbox", [(report("a"), {"w": torch.tensor([3e38])})], previous)
    with pytest.raises(FederationError, match="not finite"):
        build_strategy(StrategyConfig(kind="fedadam")).aggregate(1, inbox, previous, {})
