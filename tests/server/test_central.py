"""The noisy mean of clipped updates, through an inbox as the server makes it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from scipy import stats
from torch import Tensor

from aggregating import filled_inbox
from feat_fed.config import StrategyConfig
from feat_fed.config.privacy import CentralPrivacyConfig
from feat_fed.errors import FederationError
from feat_fed.privacy.central import CentralNoise, updates_noise
from feat_fed.protocol import Report
from feat_fed_server import strategy as strategy_module
from feat_fed_server.central import (
    CentralStrategy,
    NoisyMean,
    PrivateRound,
    clipped_sum,
    noisy_means,
)
from feat_fed_server.flower_arrays import to_arrays
from feat_fed_server.inbox import Inbox
from feat_fed_server.seeded_noise import SeededNoise
from feat_fed_server.strategy import build_strategy

Weights = dict[str, Tensor]
SHAPES = {"a.weight": (7, 5), "b.bias": (3,), "c.scale": ()}
SEED = "5e" * 32
SILENT = CentralNoise(claimed=0.0, updates=0.0)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_module, "GROUP_BYTES", 500)


def random_weights(seed: int, scale: float = 1.0) -> Weights:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def report(site: str, **fields: Any) -> Report:
    told = {"study_id": "0" * 32, "round": 1, "task": "train", "site": site, "outcome": "ok"}
    return Report.model_validate({**told, "examples": 1, "steps": 1, **fields})


def moved(previous: Weights, seed: int, *, length: float) -> Weights:
    """The weights after a move of exactly this L2 norm in a random direction."""
    move = random_weights(seed)
    norm = flat(move).norm()
    return {name: previous[name] + length / norm * move[name] for name in previous}


def flat(weights: Weights) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name in sorted(weights)])


def mean_of(
    folder: Path, updates: dict[str, Weights], previous: Weights, *, clip_norm: float
) -> Tensor:
    """The mean move of clipped updates, without noise, flat."""
    inbox = filled_inbox(folder, [(report(s), each) for s, each in updates.items()], previous)
    silent = NoisyMean(SILENT, clip_norm, len(updates), SeededNoise(SEED))
    found: Weights = {}
    for group in noisy_means(silent, clipped_sum(inbox, previous, clip_norm=clip_norm), previous):
        found |= group
    return flat(found) - flat(previous)


def central(**fields: Any) -> CentralStrategy:
    config = CentralPrivacyConfig.model_validate({"noise_multiplier": 1.0, **fields})
    return CentralStrategy(build_strategy(StrategyConfig()), config, min_sites=3)


def released(strategy: CentralStrategy, inbox: Inbox, previous: Weights, **of: Any) -> PrivateRound:
    given: dict[str, Any] = {"clip_norm": strategy.clip_norm(None), "seed": SEED, **of}
    summed = clipped_sum(inbox, previous, clip_norm=given["clip_norm"])
    return strategy.release(1, summed, previous, {}, **given)


def test_without_noise_the_mean_is_flowers(tmp_path: Path) -> None:
    """Of all but tensors without a dimension, which Flower counts in the norm and does not clip."""
    previous = random_weights(1)
    lengths = {"a": 0.3, "b": 2.0, "c": 50.0}
    updates = {s: moved(previous, ord(s), length=each) for s, each in lengths.items()}
    flower = DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=0.0, clipping_norm=1.5, num_sampled_clients=3
    )
    flower.current_arrays = to_arrays(previous)
    replies = [
        Message(
            RecordDict({"arrays": to_arrays(each), "metrics": MetricRecord({"num-examples": 1})}),
            dst_node_id=1,
            message_type="train",
        )
        for each in updates.values()
    ]
    arrays, _ = flower.aggregate_train(1, replies)
    assert isinstance(arrays, ArrayRecord)
    theirs = flat({name: torch.from_numpy(arrays[name].numpy()) for name in previous})
    ours = mean_of(tmp_path / "inbox", updates, previous, clip_norm=1.5)
    np.testing.assert_allclose(ours[:-1], (theirs - flat(previous))[:-1], atol=1e-5)
    assert ours.norm() > 0.3


@pytest.mark.parametrize("length", [0.5, 1.0, 1.0000005, 3.0, 1e6])
@pytest.mark.parametrize("sites", [1, 3, 7])
def test_one_hospital_moves_the_mean_by_the_bound_at_most(
    sites: int, length: float, tmp_path: Path
) -> None:
    previous, clip_norm = random_weights(1), 1.0
    others = {f"s{at}": moved(previous, at, length=2.0) for at in range(1, sites)}

    def mean(name: str, own: Weights) -> Tensor:
        return mean_of(tmp_path / name, {**others, "own": own}, previous, clip_norm=clip_norm)

    here = mean("here", moved(previous, 99, length=length))
    gone = mean("gone", previous)
    replaced = mean("replaced", moved(previous, 98, length=length))
    opposite = {
        name: 2 * previous[name] - each for name, each in moved(previous, 99, length=length).items()
    }
    against = mean("against", opposite)
    rounding = 1e-6
    assert (here - gone).norm() <= clip_norm / sites + rounding
    assert (here - replaced).norm() <= 2 * clip_norm / sites + rounding
    if length >= clip_norm:  # the bounds are reached, so that no smaller ones would hold
        assert (here - gone).norm() == pytest.approx(clip_norm / sites, abs=1e-5)
        assert (here - against).norm() == pytest.approx(2 * clip_norm / sites, abs=1e-5)


def test_the_noise_has_the_variance_that_is_claimed_and_is_normal(tmp_path: Path) -> None:
    previous = {"w": torch.zeros(2000), "v": torch.zeros(500)}
    updates = {s: {n: torch.zeros_like(each) for n, each in previous.items()} for s in "abcd"}
    inbox = filled_inbox(
        tmp_path / "inbox", [(report(s), each) for s, each in updates.items()], previous
    )
    strategy = central(noise_multiplier=2.0, clip_norm=3.0)
    draws = []
    for at in range(40):
        found = released(strategy, inbox, previous, seed=f"{at:064x}")
        draws.append(flat(found.weights).numpy())
    noise = np.concatenate(draws)
    claimed = 2.0 * 3.0 / 4
    assert noise.std() == pytest.approx(claimed, rel=0.015)  # 5 standard deviations
    assert abs(noise.mean()) < 5 * claimed / math.sqrt(noise.size)
    assert stats.kstest(noise / claimed, "norm").pvalue > 1e-4
    columns = np.stack(draws)
    assert abs(np.corrcoef(columns[0], columns[1])[0, 1]) < 0.1


def test_the_same_secret_releases_the_same_bytes_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = random_weights(1)
    updates = [(report(s), moved(previous, ord(s), length=2.0)) for s in "abc"]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    strategy = central(clipping="adaptive")
    first = released(strategy, inbox, previous)
    monkeypatch.setattr(strategy_module, "GROUP_BYTES", 10**9)
    again = released(central(clipping="adaptive"), Inbox(tmp_path / "inbox"), previous)
    other = released(strategy, inbox, previous, seed="5f" * 32)
    assert all(torch.equal(first.weights[n], again.weights[n]) for n in previous)
    assert (first.record, first.clip_norm) == (again.record, again.clip_norm)
    assert not torch.equal(first.weights["a.weight"], other.weights["a.weight"])
    assert first.record.release != other.record.release
    assert first.record.share_within != other.record.share_within
    assert SEED not in first.record.model_dump_json()


@pytest.mark.parametrize("change", [{"noise_multiplier": 2.0}, {"clip_norm": 2.0}])
def test_a_round_that_is_released_otherwise_gets_other_noise(
    tmp_path: Path, change: dict[str, float]
) -> None:
    # Twice the noise of before, beside it, would give the mean away.
    previous = random_weights(1)
    updates = [(report(s), moved(previous, ord(s), length=1e-9)) for s in "abc"]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    one, other = (released(central(**each), inbox, previous) for each in ({}, change))
    first, second = (flat(each.weights) - flat(previous) for each in (one, other))
    assert float((second - 2 * first).norm() / second.norm()) > 0.5
    assert one.record.release != other.record.release


def test_updates_of_nothing_integers_and_halves_are_no_trouble(tmp_path: Path) -> None:
    previous = {
        "w": torch.ones(4),
        "half": torch.zeros(2, dtype=torch.float16),
        "count": torch.tensor([3]),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0),
    }
    sent = {**previous, "count": torch.tensor([9]), "mask": torch.tensor([False, False])}
    inbox = filled_inbox(tmp_path / "inbox", [(report(s), sent) for s in "ab"], previous)
    found = released(central(), inbox, previous)
    assert found.weights["count"] == 3
    assert found.weights["mask"].tolist() == [True, False]
    assert found.weights["half"].dtype == torch.float16
    assert found.weights["none"].shape == (0,)
    assert all(float(found.weights[n].float().std()) > 0 for n in ("w", "half"))


def test_an_update_that_is_longer_than_noted_is_not_released(tmp_path: Path) -> None:
    previous = random_weights(1)
    for at, bad in enumerate(
        (moved(previous, 2, length=9.0), {n: e * math.nan for n, e in previous.items()})
    ):
        inbox = filled_inbox(tmp_path / str(at), [(report("a"), previous)], previous)
        noted = inbox.arrived()[0]
        inbox.put(noted.model_copy(update={"norm": 0.5}), bad)
        with pytest.raises(FederationError, match="not as long as was noted"):
            released(central(), inbox, previous)


def test_a_server_optimiser_works_on_the_noisy_mean(tmp_path: Path) -> None:
    previous = random_weights(1)
    updates = [(report(s), moved(previous, ord(s), length=0.1)) for s in "ab"]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    options = {"kind": "fedavgm", "server_learning_rate": 0.5, "server_momentum": 0.0}
    inner = build_strategy(StrategyConfig.model_validate(options))
    config = CentralPrivacyConfig(noise_multiplier=1.0)
    slow = released(CentralStrategy(inner, config, min_sites=2), inbox, previous)
    plain = released(central(), inbox, previous)
    expected = 0.5 * (flat(plain.weights) - flat(previous))
    np.testing.assert_allclose(flat(slow.weights) - flat(previous), expected, atol=1e-6)


def test_a_bigger_report_gives_no_bigger_voice(tmp_path: Path) -> None:
    previous = random_weights(1)
    sent = {s: moved(previous, ord(s), length=0.5) for s in "ab"}

    def mean(name: str, examples: int) -> Tensor:
        updates = [(report("a", examples=examples), sent["a"]), (report("b"), sent["b"])]
        return flat(
            released(central(), filled_inbox(tmp_path / name, updates, previous), previous).weights
        )

    assert torch.equal(mean("one", 1), mean("many", 10**6))


def test_the_count_and_the_updates_get_the_noise_of_the_paper(tmp_path: Path) -> None:
    previous = {"w": torch.zeros(3000)}
    near, far = torch.zeros(3000), torch.zeros(3000)
    near[0], far[0] = 0.5, 8.0
    sites = {"a": near, "b": near, "c": far, "d": far, "e": far}
    updates = [(report(s), {"w": each}) for s, each in sites.items()]
    inbox = filled_inbox(tmp_path / "inbox", updates, previous)
    strategy = central(clipping="adaptive", noise_multiplier=1.2, count_noise=0.8)
    shares, spreads = [], []
    for at in range(300):
        found = released(strategy, inbox, previous, seed=f"{at:064x}")
        shares.append(found.record.share_within)
        spreads.append(float(found.weights["w"][1:].std()))
        assert found.record.noise_multiplier == 1.2
        expected = math.exp(-0.2 * (found.record.share_within - 0.5))
        assert found.clip_norm == pytest.approx(expected, rel=1e-12)
    assert np.mean(shares) == pytest.approx(2 / 5, abs=5 * 0.8 / 5 / math.sqrt(300))
    assert np.std(shares) == pytest.approx(0.8 / 5, rel=0.2)
    assert np.mean(spreads) == pytest.approx(updates_noise(1.2, count_noise=0.8) / 5, rel=0.01)


def test_what_the_site_says_of_its_unclipped_norm_is_counted(tmp_path: Path) -> None:
    previous = random_weights(1)
    sent = moved(previous, 2, length=0.99)

    def share(name: str, within: bool | None) -> float:
        inbox = filled_inbox(
            tmp_path / name, [(report(s, within_clip_norm=within), sent) for s in "ab"], previous
        )
        found = released(central(clipping="adaptive"), inbox, previous).record.share_within
        assert found is not None
        return found

    assert share("told", True) == share("silent", None)
    assert share("told", True) - share("cut", False) == pytest.approx(1.0)
