"""The CPU benchmarks run, and the networks that they compare are what they say."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from feat_fed.config import FEATConfig
from feat_fed.config.model import WKVMode
from feat_fed.model.wkv import wkv_paper, wkv_published

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import as the scripts do, which set the number of threads for themselves alone."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize(
    "script",
    [
        "attention_twin",
        "encoding",
        "feat_step",
        "loading",
        "privacy_step",
        "secure_aggregation",
        "training",
        "wkv",
    ],
)
def test_a_benchmark_runs_and_reports(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "found.json"
    command = [f"{script}.py", "--quick", "--runs", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(BENCHMARKS / command[0]), run_name="__main__")
    found = json.loads(out.read_text())
    assert found["torch"] == torch.__version__ and found["threads"] == 1
    assert found["rows" if script == "attention_twin" else "results"]
    assert out.with_suffix(".svg").exists() == (script == "attention_twin")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        runpy.run_path(str(BENCHMARKS / "gpu.py"), run_name="__main__")


@pytest.mark.parametrize("mode", ["paper", "published"])
@pytest.mark.parametrize("clip", [(2, 3, 4, 8, 8), (1, 5, 4, 6, 12)])
def test_the_published_layout_is_the_same_function(
    mode: WKVMode, clip: tuple[int, int, int, int, int]
) -> None:
    feat_step = module("feat_step")
    size = feat_step.Size(FEATConfig(hidden_size=16, num_heads=2, num_trios=2, wkv=mode), clip)
    ours = feat_step.opened(size.config)
    wkv = wkv_paper if mode == "paper" else wkv_published
    peer = module("published_layout").PublishedFEAT.like(ours, wkv)
    feat_step.assert_same_function(ours, peer, size)
    with torch.no_grad():
        peer.blocks[1].att.spatial_decay.add_(1)
    with pytest.raises(AssertionError, match="of the two networks differ"):
        feat_step.assert_same_function(ours, peer, size)


def test_every_call_of_wkv_is_heard_and_the_network_is_left_as_it_was() -> None:
    feat_step = module("feat_step")
    size = feat_step.Size(FEATConfig(hidden_size=16, num_heads=2, num_trios=2), (1, 2, 4, 8, 8))
    model = feat_step.opened(size.config)
    operator = model.trios[0].spatial.mixer.wkv
    calls = feat_step.wkv_calls(model, feat_step.step_of(model, size))
    assert len(calls) == 2 * 3
    # Two frames' 16 tokens, row by row; both ways a call gives gradients of k, v, w and u.
    assert [g.numel() for g in calls[0]()] == [2 * 16 * 16, 2 * 16 * 16, 16, 16]
    assert model.trios[0].spatial.mixer.wkv is operator


def test_the_twin_is_as_large_as_feat_and_mixes_space_and_time() -> None:
    twin = module("attention_twin")
    blocks = twin.twin_blocks(FEATConfig())
    with torch.device("meta"):
        size = twin.size_of(twin.AttentionTwin(FEATConfig(), blocks))
    assert blocks % 2 == 0 and abs(size / 158_077_584 - 1) < 0.03
    config = FEATConfig(hidden_size=16, num_heads=2)
    torch.manual_seed(0)
    model = twin.AttentionTwin(config, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    z = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    model(z, torch.tensor([9]))[0, 0, :, 0, 0].sum().backward()
    assert z.grad is not None and bool((z.grad != 0).all())


def test_flops_are_the_papers() -> None:
    """FEAT-S on 16 frames of 128 px: 118.9 G multiply-adds a forward pass, two FLOPs each."""
    twin = module("attention_twin")
    config = FEATConfig()
    flops = twin.forward_flops(twin.networks(config)["FEAT"], config, (128, 16))
    assert flops == pytest.approx(238e9, rel=0.01)


def test_traffic_counts_what_is_read_and_written() -> None:
    moved = module("traffic").bytes_moved
    x = torch.randn(1000)
    assert moved(lambda: x + x) == 3 * 4000
    assert moved(lambda: x.view(10, 100).t()) == 0
    assert moved(lambda: x[None].expand(5, 1000).clone()) == 4000 + 5 * 4000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_memory_is_what_a_job_holds_at_its_peak() -> None:
    size = 64 * 2**20
    added = module("memory").added_bytes(lambda: torch.ones(size, dtype=torch.uint8), "cpu")
    assert added == pytest.approx(size, rel=0.1)


def test_a_job_is_compared_turn_by_turn() -> None:
    Times = module("timing").Times
    ours = Times("cpu", wall_sec=(9.0, 9.0, 9.0), cpu_sec=(1.0, 4.0, 1.0))
    peer = Times("cpu", wall_sec=(1.0, 1.0, 1.0), cpu_sec=(2.0, 8.0, 1.0))
    assert ours.over(peer) == 0.5
    assert Times("cuda", ours.wall_sec, ours.cpu_sec).median_sec == 9
