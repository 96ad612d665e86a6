from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.model.wkv import published_weights, wkv_paper, wkv_published
from shared_files import oracle

WKV = Callable[..., Tensor]
FIXTURE = Path(__file__).parent / "fixtures" / "wkv_op.safetensors"
MODES: list[tuple[str, WKV]] = [("paper", wkv_paper), ("kernel", wkv_published)]


def random_inputs(B: int, T: int, C: int, scale: float = 1.0) -> tuple[Tensor, ...]:
    torch.manual_seed(T)
    k, v = torch.randn(2, B, T, C, dtype=torch.float64)
    w, u = scale * torch.randn(2, C, dtype=torch.float64)
    return k, v, w, u


def mix(
    weight: Callable[[int, int, float, float], float], k: Tensor, v: Tensor, w: Tensor, u: Tensor
):
    """Transcribe the definition: one weight at a time, w and u divided by T."""
    B, T, C = k.shape
    y = torch.empty_like(v)
    for b in range(B):
        for c in range(C):
            decay, bonus = float(w[c]) / T, float(u[c]) / T
            for t in range(T):
                share = [weight(t, s, decay, bonus) * math.exp(k[b, s, c]) for s in range(T)]
                y[b, t, c] = sum(a * float(v[b, s, c]) for s, a in enumerate(share)) / sum(share)
    return y


def paper_weight(t: int, s: int, w: float, u: float) -> float:
    return math.exp(u) if t == s else math.exp(-(abs(t - s) - 1) * w)


def kernel_weight(T: int) -> Callable[[int, int, float, float], float]:
    chunk = math.ceil(T / 16)

    def weight(t: int, s: int, w: float, u: float) -> float:
        p = t // chunk * chunk
        if s == t:
            return math.exp(u) + (t > p) * (1 - math.exp(w))
        if p <= s < t:
            return math.exp(-w * (t - s - 1)) + (s > p) * (1 - math.exp(w)) * math.exp(w * (t - s))
        return math.exp(-w * abs(t - s))

    return weight


@pytest.mark.parametrize("T", [1, 2, 3, 7, 16, 17, 40])
def test_equals_the_definition(T: int) -> None:
    k, v, w, u = random_inputs(2, T, 2)
    torch.testing.assert_close(wkv_paper(k, v, w, u), mix(paper_weight, k, v, w, u))
    torch.testing.assert_close(wkv_published(k, v, w, u), mix(kernel_weight(T), k, v, w, u))


@pytest.mark.parametrize("mode,wkv", MODES)
@pytest.mark.parametrize("T", [4, 16, 20, 64])
@pytest.mark.parametrize("source", ["fixture", "oracle"])
def test_equals_the_published_operator(mode: str, wkv: WKV, T: int, source: str) -> None:
    data = load_file(FIXTURE if source == "fixture" else oracle("wkv_op.safetensors"))
    k, v, w, u = (data[f"T{T}_{name}"].requires_grad_() for name in "kvwu")
    y = wkv(k, v, w * T, u * T)
    y.backward(data[f"T{T}_gy"])
    results = {"y": y.detach(), "gk": k.grad, "gv": v.grad, "gw": w.grad, "gu": u.grad}
    for name, found in results.items():
        expected = data[f"T{T}_{name}_{mode}"]
        assert (found - expected).abs().max() < 1e-9 * expected.std(), name


@pytest.mark.parametrize("mode,wkv", MODES)
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 9, 2, 2), (2, 1, 3), (1, 18, 2)])
def test_gradient_is_that_of_the_forward_pass(mode: str, wkv: WKV, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    k, v = torch.randn(2, *shape, dtype=torch.float64)
    w, u = torch.randn(2, shape[-1], dtype=torch.float64)
    assert torch.autograd.gradcheck(wkv, [x.requires_grad_() for x in (k, v, w, u)])


@pytest.mark.parametrize("wkv", [wkv_paper, wkv_published])
def test_axes_between_tokens_and_channels_are_independent(wkv: WKV) -> None:
    k, v, w, u = random_inputs(6, 20, 4)
    apart = wkv(k, v, w, u)
    k, v = (x.view(2, 3, 20, 4).transpose(1, 2) for x in (k, v))
    together = wkv(k, v, w, u)
    torch.testing.assert_close(together.transpose(1, 2).reshape(6, 20, 4), apart)


@pytest.mark.parametrize("wkv", [wkv_paper, wkv_published])
def test_tokens_may_have_two_axes(wkv: WKV) -> None:
    k, v, w, u = random_inputs(2, 15, 4)
    k, v = (x.view(2, 5, 3, 4).transpose(1, 2) for x in (k, v))
    apart = wkv(k.flatten(1, 2), v.flatten(1, 2), w, u)
    assert torch.equal(wkv(k, v, w, u, token_axes=2), apart.view(2, 3, 5, 4))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph(backend: str) -> None:
    leaves = [x.requires_grad_() for x in random_inputs(2, 20, 4)]
    results = []
    for wkv in (torch.compile(wkv_paper, fullgraph=True, backend=backend), wkv_paper):
        y = wkv(*leaves)
        results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("T", [1, 2, 16, 64, 4096])
@pytest.mark.parametrize("w", [-80.0, -20.0, 20.0, 80.0])
@pytest.mark.parametrize("u", [-80.0, 80.0])
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_extremes_stay_finite_in_float32(T: int, w: float, u: float, spread: float) -> None:
    torch.manual_seed(0)
    k, v, gy = torch.randn(3, 1, T, 4)
    k = (k * spread).requires_grad_()
    v.requires_grad_()
    raw = [torch.full((4,), each, requires_grad=True) for each in (w, u)]
    y = wkv_paper(k, v, *raw)
    y.backward(gy)
    assert y.abs().max() <= v.abs().max() * (1 + 1e-5)
    for each in (k, v, *raw):
        assert each.grad is not None and each.grad.isfinite().all()


def test_4096_tokens_equal_the_definition() -> None:
    T = 4096
    k, v, w, u = random_inputs(1, T, 3, scale=5.0)
    y = wkv_paper(k.float(), v.float(), w.float(), u.float()).double()
    gap = torch.arange(T)
    for t in (0, 1, 2047, T - 1):
        exponent = -((gap - t).abs() - 1)[:, None] * w / T
        exponent[t] = u / T
        expected = (torch.softmax(exponent + k[0], 0) * v[0]).sum(0)
        assert (y[0, t] - expected).abs().max() < 2e-5


@given(
    st.integers(1, 30), st.floats(-80, 80), st.floats(-80, 80), st.floats(-1e6, 1e6), st.integers(0)
)
@settings(max_examples=50, deadline=None)
def test_a_weighted_mean_of_values(T: int, w: float, u: float, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed % 2**63)
    k, v = torch.randn(2, 1, T, 1, dtype=torch.float64, generator=generator)
    raw = torch.tensor([w], dtype=torch.float64), torch.tensor([u], dtype=torch.float64)
    y = wkv_paper(k, v, *raw)
    assert v.min() - 1e-9 <= y.min() and y.max() <= v.max() + 1e-9
    torch.testing.assert_close(wkv_paper(k + shift, v, *raw), y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wkv", [wkv_paper, wkv_published])
def test_half_precision_is_computed_in_float32(wkv: WKV) -> None:
    k, v, w, u = (x.bfloat16() for x in random_inputs(2, 64, 8))
    y = wkv(k, v, w, u)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, wkv(k.float(), v.float(), w.float(), u.float()).bfloat16())


def test_short_sequences_have_the_plain_published_matrix() -> None:
    w, u = torch.tensor([0.3]), torch.tensor([-0.2])
    gap = (torch.arange(16)[:, None] - torch.arange(16)).abs()
    expected = torch.exp(-0.3 * gap)
    expected.fill_diagonal_(math.exp(-0.2))
    torch.testing.assert_close(published_weights(w, u, 16)[..., 0], expected)


def test_refuses_what_does_not_fit() -> None:
    k, v, w, u = random_inputs(1, 4, 2)
    with pytest.raises(ValueError, match="one shape"):
        wkv_paper(k, v[:, :3], w, u)
    with pytest.raises(ValueError, match=r"w \(3,\) must be \(2,\)"):
        wkv_paper(k, v, torch.zeros(3), u)
    with pytest.raises(ValueError, match="raw u reaches 81"):
        wkv_paper(k, v, w, torch.tensor([0.0, -81.0]))
    with pytest.raises(ValueError, match="token_axes is 3"):
        wkv_paper(k, v, w, u, token_axes=3)
    with pytest.raises(ValueError, match="diverged"):
        wkv_published(k, v, torch.tensor([0.0, math.nan]), u)
