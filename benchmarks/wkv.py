"""Time the forms of FEAT's WKV operator, forward and backward: ``python benchmarks/wkv.py``.

Each form computes the paper's equation (arXiv 2506.04956) at the shapes of FEAT-S's blocks.
They take turns, and the median cost of their runs is printed beside that of copying what they
must read and write. Shapes: B sequences, T tokens, C channels; ``w`` and ``u`` raw.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from timing import Job, default_device, header, parse, parser, take_turns, write_report
from torch import Tensor

from feat_fed.model.wkv import wkv_blocked, wkv_paper

WKV = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

SHAPES = {
    "128 px, space": (64, 64, 512),
    "16 frames, time": (256, 16, 512),
    "256 px, space": (16, 256, 512),
    "512 px, space": (4, 1024, 512),
}
QUICK_SHAPES = {"thin": (2, 20, 8)}
MATRIX_TOKENS = 256
"""Beyond this many tokens the (C, T, T) matrix of the matmul form is too large to be of use."""


def by_cumsum(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> Tensor:
    """Divide the decay out of a running sum: e^(-w t) cumsum(e^(w s) x_s), in both directions."""
    T = k.shape[1]
    w, token = w_C / T, torch.arange(T, device=k.device, dtype=k.dtype)[:, None]
    e = torch.exp(k - k.detach().amax(1, keepdim=True))
    x = torch.stack([e * v, e])
    grow, decay = torch.exp(w * token), torch.exp(-w * token)
    past = (x * grow).cumsum(2).roll(1, 2) * (token > 0) * torch.exp(-w * (token - 1))
    future = (x * decay).flip(2).cumsum(2).flip(2).roll(-1, 2)
    future = future * (token < T - 1) * torch.exp(w * (token + 1))
    num, den = past + future + torch.exp(u_C / T) * x
    y: Tensor = num / den
    return y


def by_matmul(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> Tensor:
    """Multiply by each channel's matrix of weights (T, T)."""
    T = k.shape[1]
    token = torch.arange(T, device=k.device)
    gap = (token[:, None] - token).abs()
    weights_CTT = torch.exp(-(gap - 1) * (w_C / T)[:, None, None])
    weights_CTT = torch.where(gap == 0, (u_C / T).exp()[:, None, None], weights_CTT)
    e = torch.exp(k - k.detach().amax(1, keepdim=True))
    num, den = torch.einsum("cts,nbsc->nbtc", weights_CTT, torch.stack([e * v, e]))
    y: Tensor = num / den
    return y


def by_loop(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> Tensor:
    """Walk the tokens one by one, forwards and backwards."""
    T = k.shape[1]
    step = torch.exp(-w_C / T)
    e = torch.exp(k - k.detach().amax(1, keepdim=True))
    x = torch.stack([e * v, e])

    def walk(tokens: range) -> list[Tensor]:
        states = [torch.zeros_like(x[:, :, 0])]
        for t in tokens:
            states.append(states[-1] * step + x[:, :, t])
        return states[:-1]

    past, future = walk(range(T)), walk(range(T - 1, -1, -1))[::-1]
    num, den = torch.stack(past, 2) + torch.stack(future, 2) + torch.exp(u_C / T) * x
    y: Tensor = num / den
    return y


def in_float32(form: WKV) -> WKV:
    """Keep exponentials and sums out of half precision, as the other forms do by themselves."""
    return lambda k, v, w_C, u_C: form(k.float(), v.float(), w_C, u_C).to(v.dtype)


def forms(device: str) -> dict[str, WKV]:
    """Return the forms that this machine can run."""
    all_forms: dict[str, WKV] = {
        "blocked": wkv_blocked,
        "cumsum": in_float32(by_cumsum),
        "matmul": in_float32(by_matmul),
        "loop": in_float32(by_loop),
    }
    return all_forms | ({"triton": wkv_paper} if device == "cuda" and find_spec("triton") else {})


def measure(
    shape: tuple[int, int, int], device: str, dtype: torch.dtype, runs: int
) -> dict[str, float]:
    """Return median milliseconds of forward and backward for each form, and of the copies."""
    torch.manual_seed(0)
    k, v, gy = torch.randn(3, *shape, device=device).to(dtype)
    w, u = torch.randn(2, shape[-1], device=device)
    leaves = [x.requires_grad_() for x in (k, v, w, u)]
    expected = wkv_blocked(k, v, w, u).detach()

    def both_ways(form: WKV) -> Job:
        return lambda: torch.autograd.grad(form(*leaves), leaves, gy)

    work: dict[str, Job] = {}
    for name, form in forms(device).items():
        if name == "matmul" and shape[1] > MATRIX_TOKENS:
            continue
        torch.testing.assert_close(form(*leaves).detach(), expected, rtol=2e-2, atol=1e-3)
        work[name] = both_ways(form)
    # Forward reads k, v and writes y; backward reads k, v, gy and writes gk, gv: four copies.
    copies = [x.detach() for x in (k, v, gy, gy)]
    work["copy"] = lambda: [x.clone() for x in copies]
    times = take_turns(work, device, runs)
    return {name: 1000 * taken.median_sec for name, taken in times.items()}


def print_table(shape_name: str, shape: tuple[int, int, int], found: dict[str, float]) -> None:
    """Print a form a line: milliseconds and how many times the copies' they are."""
    print(f"\n{shape_name}  (B, T, C) = {shape}")
    for name, ms in sorted(found.items(), key=lambda item: item[1]):
        print(f"  {name:8} {ms:10.3f} ms {ms / found['copy']:8.1f} x copy")


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=5)
    options.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--divide", type=int, default=1, help="divide B, for a small machine")
    options.add_argument("--quick", action="store_true", help="one thin shape")
    chosen = parse(options)
    dtype = getattr(torch, chosen.dtype)
    results = []
    for name, (B, T, C) in (QUICK_SHAPES if chosen.quick else SHAPES).items():
        shape = (max(B // chosen.divide, 1), T, C)
        found = measure(shape, chosen.device, dtype, chosen.runs)
        print_table(name, shape, found)
        results.append({"name": name, "shape_BTC": shape, "median_ms": found})
    report = {"dtype": chosen.dtype, "runs": chosen.runs, "results": results}
    write_report(chosen.out, {**header(chosen.device), **report})


if __name__ == "__main__":
    main()
