"""Place FEAT's training step under a GPU's ceilings: ``python benchmarks/gpu.py``.

In one run: what the device reaches in a large matrix product (bf16) and in a large copy; then,
for FEAT-S and FEAT-L at batch 1 to 32 (16 frames, 128 px), a step under bf16 autocast, its
FLOPs and bytes a second, and how near they come; last, the WKV kernel beside the copy.

FLOPs are those of products and convolutions, forward times three. Bytes are those that eager
operations read and write (:mod:`traffic`). WKV's are the least that its passes must move: k, v
and y forwards; k, v, gy, gk and gv backwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from timing import Job, header, parse, parser, take_turns, write_report
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from traffic import bytes_moved

from feat_fed.config import DiffusionConfig, FEATConfig
from feat_fed.diffusion import Schedule, training_losses
from feat_fed.model import FEAT
from feat_fed.model.wkv import wkv_paper

NETWORKS = {"FEAT-S": FEATConfig(), "FEAT-L": FEATConfig(hidden_size=1024, num_heads=16)}
BATCHES = (1, 2, 4, 8, 16, 32)
CLIP_FCHW = (16, 4, 16, 16)
MATRIX = 8192
COPIED_BYTES = 2**30
WKV_ELEMENTS = 2**27
"""Enough that launching a kernel takes no share of its time."""
WKV_TOKENS = (16, 64, 256, 1024)
WKV_CHANNELS = 512
CALLS = 5
"""In a row, so that the queue is never empty."""


def seconds_of(job: Job, runs: int) -> float:
    """Return the median seconds of a call."""
    return take_turns({"job": job}, "cuda", runs, calls=CALLS)["job"].median_sec


def ceilings(runs: int) -> dict[str, float]:
    """Return what a large product and a large copy reach here."""
    a, b = torch.randn(2, MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16)
    product = torch.empty_like(a)
    source = torch.empty(COPIED_BYTES, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "TFLOP_per_sec": 2e-12 * MATRIX**3 / seconds_of(lambda: torch.mm(a, b, out=product), runs),
        "GB_per_sec": 2e-9 * COPIED_BYTES / seconds_of(lambda: target.copy_(source), runs),
    }


def forward_flops(config: FEATConfig, batch: int) -> int:
    """Return the FLOPs of one evaluation; nothing is computed for it."""
    with torch.device("meta"):
        model = FEAT(config)
        z, t = torch.empty(batch, *CLIP_FCHW), torch.zeros(batch, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(z, t)
    return int(counter.get_total_flops())


def step_of(model: FEAT, batch: int) -> Callable[[], None]:
    """Return a training step without its optimiser."""
    z, noise = torch.randn(2, batch, *CLIP_FCHW, device="cuda")
    t = torch.randint(0, 1000, (batch,), device="cuda")
    schedule = Schedule.linear(DiffusionConfig()).to("cuda")

    def step() -> None:
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = training_losses(model, z, t, noise, schedule).total_B.mean()
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def measure_steps(name: str, runs: int, ceiling: dict[str, float]) -> list[dict[str, object]]:
    """Return a row a batch, up to the last that fits into the device's memory."""
    config = NETWORKS[name]
    model = FEAT(config).to("cuda")
    rows: list[dict[str, object]] = []
    for batch in BATCHES:
        step = step_of(model, batch)
        torch.cuda.reset_peak_memory_stats()
        try:
            taken = seconds_of(step, runs)
            moved = bytes_moved(step)
        except torch.OutOfMemoryError:
            print(f"{name:7} {batch:5}  does not fit into the device's memory")
            break
        tflop = 3e-12 * forward_flops(config, batch) / taken
        gb = 1e-9 * moved / taken
        print(
            f"{name:7} {batch:5} {1000 * taken:10.1f} {1000 * taken / batch:10.1f}"
            f" {tflop:8.1f} {tflop / ceiling['TFLOP_per_sec']:6.0%}"
            f" {gb:8.0f} {gb / ceiling['GB_per_sec']:6.0%}"
        )
        rows.append(
            {
                "network": name,
                "batch": batch,
                "step_sec": taken,
                "TFLOP_per_sec": tflop,
                "GB_per_sec": gb,
                "bytes_moved": moved,
                "peak_bytes": torch.cuda.max_memory_allocated(),
            }
        )
    return rows


def measure_wkv(tokens: int, runs: int, ceiling: dict[str, float]) -> dict[str, object]:
    """Time the operator in bf16, forward and backward, as bytes a second."""
    shape_BTC = (WKV_ELEMENTS // (tokens * WKV_CHANNELS), tokens, WKV_CHANNELS)
    k, v, gy = (torch.randn(shape_BTC, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    w, u = torch.randn(2, WKV_CHANNELS, device="cuda")
    leaves = [x.requires_grad_() for x in (k, v, w, u)]

    def both_ways() -> tuple[Tensor, ...]:
        return torch.autograd.grad(wkv_paper(*leaves), leaves, gy)

    taken = seconds_of(both_ways, runs)
    gb = 8e-9 * k.numel() * k.element_size() / taken
    print(f"{tokens:6} {1000 * taken:10.3f} {gb:8.0f} {gb / ceiling['GB_per_sec']:6.0%}")
    return {"shape_BTC": shape_BTC, "both_ways_sec": taken, "GB_per_sec": gb}


def main() -> None:
    """Measure, print, and write what was found."""
    chosen = parse(parser(__doc__, runs=5))
    if not torch.cuda.is_available():
        sys.exit(
            "gpu.py: torch finds no CUDA device here; run it where there is a GPU, with a CUDA "
            "build of torch. The other benchmarks run on a CPU."
        )
    ceiling = ceilings(chosen.runs)
    print(
        f"ceilings: {ceiling['TFLOP_per_sec']:.0f} TFLOP/s in a bf16 product of {MATRIX}, "
        f"{ceiling['GB_per_sec']:.0f} GB/s in a copy\n"
    )
    print("network batch    step ms ms a clip  TFLOP/s    of     GB/s    of")
    steps = [row for name in NETWORKS for row in measure_steps(name, chosen.runs, ceiling)]
    torch.cuda.empty_cache()
    print("\nWKV, both ways\ntokens         ms     GB/s    of")
    wkv = [measure_wkv(tokens, chosen.runs, ceiling) for tokens in WKV_TOKENS]
    report = {**header("cuda"), "ceilings": ceiling, "steps": steps, "wkv": wkv}
    write_report(chosen.out, report)


if __name__ == "__main__":
    main()
