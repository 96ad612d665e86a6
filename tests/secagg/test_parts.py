"""Grid, masks, shares and graph, each against something slower or a bound."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.errors import (
    AgreementError,
    CheckpointError,
    ConfigError,
    DropoutError,
    StorageError,
    TrainingError,
)
from feat_fed.secagg import (
    Grid,
    Masks,
    SiteState,
    counters_from_ring,
    counters_to_ring,
    places,
    read_state,
    write_state,
)
from feat_fed.secagg.shamir import combine, deal
from feat_fed.secagg.terms import Terms, graph_of, is_connected, terms_of

SITES = st.integers(1, 64)
LARGEST = st.floats(1e-6, 1e3)


@settings(deadline=None)
@given(LARGEST, SITES, st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_a_value_loses_less_than_a_step_and_never_grows(
    largest: float, sites: int, shares: list[float]
) -> None:
    grid = Grid(largest, sites)
    x = (torch.tensor(shares, dtype=torch.float64) * grid.bound * grid.step).to(torch.float32)
    back = torch.from_numpy(grid.sum_from_ring(grid.to_ring(x)))
    exact = x.to(torch.float64)
    assert bool((back.abs() <= exact.abs()).all() and (back * exact >= 0).all())
    assert float((back - exact).abs().max()) < grid.step
    assert float(back.square().sum()) <= float(exact.square().sum())
    # Float32 is no finer than the grid there.
    coarse = exact.abs() >= 2**23 * grid.step
    assert torch.equal(back[coarse], exact[coarse])


@given(LARGEST, SITES)
@example(1.0, 8)  # of powers of two the sum comes nearest
def test_no_sum_of_so_many_sites_overflows(largest: float, sites: int) -> None:
    grid = Grid(largest, sites)
    assert grid.bound * sites <= 2**31 - 1
    assert largest * (1 - 2**-23) <= grid.bound * grid.step <= largest
    for end in (-1e30, -largest, largest, 1e30):
        one = grid.to_ring(torch.tensor([end]))
        total = np.zeros_like(one)
        for _ in range(sites):
            total += one
        assert grid.sum_from_ring(total)[0] == np.sign(end) * sites * grid.bound * grid.step


def test_eight_sites_have_28_bits_and_a_step_as_documented() -> None:
    assert Grid(1.0, 8).step == 2**-28
    assert Grid(0.1, 8).step == 2**-31
    assert Grid(1.0, 7).step == 2**-28
    assert Grid(1.0, 9).step == 2**-27


def test_a_grid_refuses_what_is_no_update() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="not finite"):
            Grid(1.0, 3).to_ring(torch.tensor([0.0, bad]))
    for largest in (0.0, 1e30, float("nan")):
        with pytest.raises(ConfigError, match="largest_value is"):
            Grid(largest, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_keeps_its_shape_whatever_its_strides(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).t()
    ring = Grid(1.0, 3).to_ring(x)
    assert ring.shape == (4, 3) and ring.flags.c_contiguous and ring.flags.writeable
    np.testing.assert_allclose(Grid(1.0, 3).sum_from_ring(ring), x.double(), atol=1e-8)
    assert Grid(1.0, 3).to_ring(x[0, 0]).shape == ()


def test_counters_add_up_and_lies_are_seen() -> None:
    total = counters_to_ring([0, 1, 5]) + counters_to_ring([1, 1, 2])
    assert counters_from_ring(total, most=7) == [1, 2, 7]
    with pytest.raises(AgreementError, match="larger than the sites' counts"):
        counters_from_ring(total, most=6)
    for bad in (-1, 2**31):
        with pytest.raises(ValueError, match="a counter"):
            counters_to_ring([bad])


def stream(seed: bytes, values: int) -> np.ndarray:
    """All of a stream's first values at once."""
    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * values)), dtype="<u4")


@pytest.mark.parametrize("first", [0, 1, 3, 4, 70_001])
@pytest.mark.parametrize("size", [0, 1, 5, 65_536, 150_000])
def test_masks_are_the_streams_wherever_they_begin(first: int, size: int) -> None:
    one, two, three = (bytes([each]) * 32 for each in (1, 2, 3))
    values = np.arange(size, dtype=np.uint32)
    Masks(added=(one, two), subtracted=(three,)).apply(values, first)
    expected = np.arange(size, dtype=np.uint32)
    for seed, sign in ((one, 1), (two, 1), (three, -1)):
        expected += np.uint32(sign % 2**32) * stream(seed, first + size)[first:]
    np.testing.assert_array_equal(values, expected)


def test_tensors_are_masked_one_by_one_as_all_at_once() -> None:
    sizes = {"b": 7, "a": 100_003, "c": 1}
    starts = places(sizes, counters=2)
    assert starts == {"a": 2, "b": 100_005, "c": 100_012}
    masks = Masks(added=(os.urandom(32),), subtracted=())
    whole = np.zeros(100_013, dtype=np.uint32)
    masks.apply(whole, 0)
    for name, start in starts.items():
        part = np.zeros(sizes[name], dtype=np.uint32)
        masks.apply(part, start)
        np.testing.assert_array_equal(part, whole[start : start + sizes[name]])


def test_only_contiguous_values_are_masked_in_place() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        Masks(added=(bytes(32),), subtracted=()).apply(np.zeros((4, 4), np.uint32).T[::2], 0)


@pytest.mark.parametrize("update", ["zeros", "largest", "smooth"])
def test_a_masked_update_looks_like_uniform_integers(update: str) -> None:
    """Every byte of every value, and neighbouring values' differences, by Pearson's test."""
    values = 200_000
    grid = Grid(1.0, 8)
    x = {
        "zeros": torch.zeros(values),
        "largest": torch.ones(values),
        "smooth": torch.linspace(-1, 1, values),
    }[update]
    masked = grid.to_ring(x)
    Masks(added=(b"\1" * 32, b"\2" * 32), subtracted=(b"\3" * 32,)).apply(masked, 0)
    for each in (masked, np.diff(masked)):
        for column in each.view(np.uint8).reshape(-1, 4).T:
            assert chisquare(np.bincount(column, minlength=256)).pvalue > 1e-4
    correlation = np.corrcoef(masked.astype(float), np.arange(values))[0, 1]
    assert abs(correlation) < 5 / values**0.5


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_any_threshold_of_shares_makes_the_secret_and_fewer_do_not(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8))
    threshold = data.draw(st.integers(2, count))
    holders = [f"h{number}" for number in range(count)]
    secret = os.urandom(32)
    shares = deal(secret, holders, threshold)
    assert {len(each) for each in shares.values()} == {32}
    some = data.draw(st.permutations(holders))
    enough = {name: shares[name] for name in some[:threshold]}
    assert combine(enough, holders, threshold) == secret
    few = {name: shares[name] for name in some[: threshold - 1]}
    assert combine(few, holders, threshold - 1) != secret
    wrong = {**enough, some[0]: os.urandom(32)}
    assert combine(wrong, holders, threshold) != secret


@pytest.mark.parametrize(("sites", "neighbours"), [*itertools.product((3, 4, 7, 50), (2, 4, 10))])
def test_the_graph_is_regular_mutual_connected_and_anybodys(sites: int, neighbours: int) -> None:
    names = [f"s{number:02}" for number in range(sites)]
    graph = graph_of(names, min(neighbours, sites - 1), "seed")
    assert {len(each) for each in graph.values()} == {min(neighbours, sites - 1)}
    assert all(one in graph[other] for one in names for other in graph[one])
    assert is_connected(graph, names)
    assert graph == graph_of(names[::-1], min(neighbours, sites - 1), "seed")
    if neighbours < sites - 3:
        assert graph != graph_of(names, neighbours, "another seed")
        some = names[0]
        assert not is_connected(graph, set(names) - graph[some])


@pytest.mark.parametrize(
    ("sites", "config", "expected"),
    [
        (3, {}, (2, 2)),
        (4, {}, (3, 3)),
        (6, {}, (5, 4)),
        (8, {}, (7, 6)),
        (8, {"neighbours": 4}, (4, 4)),
        (4, {"neighbours": 10}, (3, 3)),
        (8, {"threshold": 8}, (7, 8)),
        # Of no majority both secrets of a site could be found.
        (8, {"threshold": 2}, (7, 5)),
    ],
)
def test_terms(sites: int, config: dict[str, int], expected: tuple[int, int]) -> None:
    found = terms_of(SecureAggregationConfig.model_validate(config), sites)
    assert found == Terms(neighbours=expected[0], threshold=expected[1])


def test_terms_that_cannot_be_met() -> None:
    with pytest.raises(DropoutError, match="is 5, and a site and its neighbours are only"):
        terms_of(SecureAggregationConfig(threshold=5), 4)
    with pytest.raises(DropoutError, match="at most 64"):
        terms_of(SecureAggregationConfig(), 65)
    with pytest.raises(ValueError, match="multiple of 2"):
        SecureAggregationConfig(neighbours=3)


def test_a_damaged_state_is_told_and_one_that_cannot_be_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_state(path, SiteState) is None
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"state.json is damaged"):
        read_state(path, SiteState)
    with pytest.raises(StorageError, match="cannot be written"):
        write_state(path / "below", Terms(neighbours=2, threshold=2))
