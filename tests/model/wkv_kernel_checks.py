"""What holds of the Triton kernels, on a GPU or in Triton's interpreter.

``test_wkv_triton.py`` runs this file in a process of its own, because Triton decides at import
whether it compiles or interprets.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from feat_fed.model import wkv, wkv_triton

DEVICE = "cpu" if triton.knobs.runtime.interpret else "cuda"
WKV = Callable[..., Tensor]
NAMES = ("y", "gk", "gv", "gw", "gu")


def inputs(*shape: int, spread: float = 1.0) -> list[Tensor]:
    torch.manual_seed(shape[1])
    k, v, gy = torch.randn(3, *shape)
    w, u = torch.randn(2, shape[-1])
    return [x.to(DEVICE) for x in (k * spread, v, w, u, gy)]


def apply(operator: WKV, k: Tensor, v: Tensor, w: Tensor, u: Tensor, gy: Tensor, **options: int):
    leaves = [x.detach().requires_grad_() for x in (k, v, w, u)]
    y = operator(*leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, gy.to(y.dtype))]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare relative to the standard deviation; at T = 1 some gradients are all zero."""
    for name, a, b in zip(NAMES, found, expected, strict=True):
        scale = max(float(b.std()), 0.1)
        assert float((a.double() - b).abs().max()) < tolerance * scale, name


def equals_the_reference(*shape: int, tolerance: float = 1e-5, **options: int) -> None:
    given = inputs(*shape)
    expected = apply(wkv.wkv_paper, *(x.double() for x in given), **options)
    assert_close(apply(wkv_triton.wkv_triton, *given, **options), expected, tolerance)


@pytest.mark.parametrize("T", [1, 3, 16, 20, 64, 100])
@pytest.mark.parametrize("C", [8, 33])
def test_equals_the_reference(T: int, C: int) -> None:
    equals_the_reference(2 if T < 16 else 1, T, C)


@pytest.mark.parametrize("T", [17, 24])
def test_chunks_equal_the_reference(T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wkv_triton, "_MAX_STEPS", 4)
    monkeypatch.setattr(wkv_triton, "_MAX_ROWS", 2)
    assert wkv_triton.cut(T, 8).CHUNKS >= 3
    equals_the_reference(1, T, 8)


def test_more_tokens_than_one_chunk_holds() -> None:
    assert wkv_triton.cut(200, 4).CHUNKS == 2
    equals_the_reference(1, 200, 4)


@pytest.mark.parametrize("shape", [(2, 5, 2, 8), (1, 3, 2, 2, 8)])
def test_axes_between_tokens_and_channels(shape: tuple[int, ...]) -> None:
    equals_the_reference(*shape)


def test_two_token_axes() -> None:
    equals_the_reference(2, 2, 3, 2, 8, token_axes=2)


@pytest.mark.parametrize("T", [2, 9, 20])
@pytest.mark.parametrize("w", [-80.0, 80.0])
@pytest.mark.parametrize("u", [-80.0, 80.0])
def test_extreme_weights(T: int, w: float, u: float) -> None:
    k, v, _, _, gy = inputs(1, T, 4)
    given = [k, v, torch.full((4,), w, device=DEVICE), torch.full((4,), u, device=DEVICE), gy]
    expected = apply(wkv.wkv_paper, *(x.double() for x in given))
    assert_close(apply(wkv_triton.wkv_triton, *given), expected, tolerance=1e-4)


@pytest.mark.parametrize("T", [1, 16, 24])
@pytest.mark.parametrize("w", [-80.0, 80.0])
def test_extreme_keys(T: int, w: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wkv_triton, "_MAX_ROWS", 2)
    k, v, _, u, gy = inputs(1, T, 4, spread=1e4)
    found = apply(wkv_triton.wkv_triton, k, v, torch.full_like(u, w), u, gy)
    assert all(x.isfinite().all() for x in found)
    assert found[0].abs().max() <= v.abs().max() * (1 + 1e-5)
    expected = wkv.wkv_paper(*(x.double() for x in (k, v, torch.full_like(u, w), u)))
    assert (found[0] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype,step", [(torch.float16, 0.0), (torch.bfloat16, 2**-7)])
def test_half_precision_is_rounded_once(dtype: torch.dtype, step: float) -> None:
    # The interpreter cuts bfloat16 off where a GPU rounds: one step of it is allowed.
    given = [x.to(dtype) for x in inputs(1, 20, 8)]
    found = apply(wkv_triton.wkv_triton, *given)
    precise = apply(wkv_triton.wkv_triton, *(x.float() for x in given))
    for a, b in zip(found, precise, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b.to(dtype), rtol=step, atol=0)


class Calls(TorchDispatchMode):
    """Records the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", ["rows", "columns", "time"])
def test_views_are_not_copied(order: str) -> None:
    kvr_BFHWC = torch.randn(1, 2, 3, 4, 24, device=DEVICE)
    k, v = kvr_BFHWC.chunk(3, -1)[0], torch.randn(1, 2, 3, 4, 8, device=DEVICE)
    if order != "time":
        k, v = k.flatten(0, 1), v.flatten(0, 1)
    if order == "columns":
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    token_axes = 1 if order == "time" else 2
    w, u = torch.randn(2, 8, device=DEVICE)
    gy = torch.randn(1, device=DEVICE).expand(v.shape)
    with Calls() as calls:
        y = wkv_triton.wkv_triton(k, v, w, u, token_axes=token_axes)
    assert calls.names <= {"feat_fed::wkv", "aten::view", "aten::empty_like", "aten::new_empty"}
    assert y.stride() == v.stride()
    options = {"token_axes": token_axes}
    expected = apply(wkv.wkv_paper, *(x.double() for x in (k, v, w, u, gy)), **options)
    assert_close(apply(wkv_triton.wkv_triton, k, v, w, u, gy, **options), expected, 1e-5)


def test_the_operator_is_registered_soundly() -> None:
    k, v, w, u, gy = inputs(1, 3, 1, 2, 4)
    leaves = [x.detach().requires_grad_() for x in (k.transpose(1, 3), v.transpose(1, 3), w, u)]
    torch.library.opcheck(torch.ops.feat_fed.wkv.default, leaves)
    kept = torch.ops.feat_fed.wkv(k, v, w, u)[1]
    torch.library.opcheck(torch.ops.feat_fed.wkv_backward.default, (k, v, w, u, kept, gy))


def test_compiles_into_one_graph() -> None:
    given = inputs(1, 4, 2, 8)
    compiled = torch.compile(wkv_triton.wkv_triton, fullgraph=True, backend="aot_eager")
    for a, b in zip(apply(compiled, *given), apply(wkv_triton.wkv_triton, *given), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(DEVICE == "cpu", reason="only CUDA tensors are given to the kernels")
def test_a_gpu_gets_the_kernels() -> None:
    given = inputs(2, 20, 8)
    with Calls() as calls:
        wkv.wkv_paper(*given[:4])
    assert "feat_fed::wkv" in calls.names
