"""Time FEAT's training step against the published layout: ``python benchmarks/feat_step.py``.

Two claims on a CPU in float32, forward and backward, of FEAT-S:

1. at 128 px and 16 frames, a step costs at most 0.75 of the same function in the published
   layout (:mod:`published_layout`; outputs and gradients are compared before the clock runs);
2. at 512 px (1024 tokens a frame), WKV takes less than 5 % of a step.

For the second, one of FEAT-S's nine equal trios is run, at full width and 16 frames, and the
very calls of the operator that its step makes are timed alone, in turn with the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from published_layout import PublishedFEAT
from timing import Job, header, median_ratio, medians, parser, take_turns, write_report
from torch import Tensor, nn

from feat_fed.config import DiffusionConfig, FEATConfig
from feat_fed.diffusion import Schedule, training_losses
from feat_fed.model import FEAT

LAYOUT_CLAIM = 0.75
WKV_CLAIM = 0.05
TOLERANCE = 1e-4
"""Of outputs and of gradients, in units of their largest value."""


@dataclass(frozen=True)
class Size:
    """A network and the latent clip that it is shown."""

    config: FEATConfig
    shape_BFCHW: tuple[int, int, int, int, int]


LAYOUT = Size(FEATConfig(), (1, 16, 4, 16, 16))
WKV = Size(FEATConfig(num_trios=1), (1, 16, 4, 64, 64))

_THIN = FEATConfig(hidden_size=32, num_heads=2, num_trios=1)
QUICK_LAYOUT = Size(_THIN, (1, 4, 4, 8, 8))
QUICK_WKV = Size(_THIN, (1, 2, 4, 32, 32))


def opened(config: FEATConfig) -> FEAT:
    """Return a network with noise on every weight, so that no gate is closed."""
    torch.manual_seed(0)
    model = FEAT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def step_of(model: nn.Module, size: Size) -> Callable[[], Tensor]:
    """Return a training step without its optimiser; it gives back the latents' gradient."""
    torch.manual_seed(1)
    z, noise = torch.randn(2, *size.shape_BFCHW)
    t = torch.randint(0, 1000, z.shape[:1])
    schedule = Schedule.linear(DiffusionConfig())

    def step() -> Tensor:
        model.zero_grad()
        z_leaf = z.clone().requires_grad_()
        losses = training_losses(model, z_leaf, t, noise, schedule)
        losses.total_B.mean().backward()  # type: ignore[no-untyped-call]
        assert z_leaf.grad is not None
        return z_leaf.grad

    return step


def deviation(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same_function(ours: FEAT, peer: nn.Module, size: Size) -> None:
    """Compare outputs and the gradients of a training step.

    Raises
    ------
    AssertionError
        If they differ by more than rounding.
    """
    z, t = torch.randn(size.shape_BFCHW), torch.randint(0, 1000, size.shape_BFCHW[:1])
    with torch.no_grad():
        apart = {"outputs": deviation(ours(z, t), peer(z, t))}
    apart["gradients"] = deviation(step_of(ours, size)(), step_of(peer, size)())
    for name, by in apart.items():
        if not by < TOLERANCE:
            raise AssertionError(f"{name} of the two networks differ by {by:.1e} of their largest")


def measure_layout(size: Size, runs: int) -> dict[str, object]:
    """Time a step of ours and of the published layout in turn."""
    ours = opened(size.config)
    peer = PublishedFEAT.like(ours)
    assert_same_function(ours, peer, size)
    jobs = {"ours": step_of(ours, size), "published layout": step_of(peer, size)}
    # The comparison has warmed both up.
    times = take_turns(jobs, "cpu", runs, warm_up=False)
    ratio = median_ratio(times["ours"], times["published layout"])
    return {"shape_BFCHW": size.shape_BFCHW, "seconds": times, "ratio": ratio}


def wkv_calls(model: FEAT, step: Job) -> list[Job]:
    """Return every call of WKV that a step makes, as one that runs it alone, both ways."""
    calls: list[Job] = []
    mixers = [module for module in model.modules() if hasattr(module, "wkv")]
    for mixer in mixers:
        mixer.wkv = _recorder(mixer.wkv, calls)
    step()
    for mixer in mixers:
        mixer.wkv = mixer.wkv.operator
    return calls


def _recorder(operator: Callable[..., Tensor], calls: list[Job]) -> Callable[..., Tensor]:
    def record(*tensors: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        leaves = [each.detach().requires_grad_() for each in tensors]
        y = operator(*tensors, **options)
        gy = torch.randn_like(y)
        calls.append(lambda: torch.autograd.grad(operator(*leaves, **options), leaves, gy))
        return y

    record.operator = operator  # type: ignore[attr-defined]
    return record


def measure_wkv(size: Size, runs: int) -> dict[str, object]:
    """Time a step and, in turn with it, the calls of WKV in it."""
    model = opened(size.config)
    step = step_of(model, size)
    calls = wkv_calls(model, step)
    jobs: dict[str, Job] = {"step": step, "wkv": lambda: [call() for call in calls]}
    times = take_turns(jobs, "cpu", runs)
    share = median_ratio(times["wkv"], times["step"])
    return {"shape_BFCHW": size.shape_BFCHW, "calls": len(calls), "seconds": times, "share": share}


def print_claim(name: str, found: dict[str, Any], key: str, claim: float) -> dict[str, object]:
    """Print a measurement beside what is claimed of it, and return both."""
    print(f"{name}  (B, F, C, H, W) = {found['shape_BFCHW']}")
    for job, taken in medians(found["seconds"]).items():
        spread = max(found["seconds"][job]) - min(found["seconds"][job])
        print(f"  {job:18} {taken:8.3f} s  (spread {spread:.3f} s)")
    holds = found[key] <= claim
    print(f"  {key:18} {found[key]:8.3f}    claimed at most {claim}: {'holds' if holds else 'NO'}")
    return {"name": name, **found, "claim": claim, "holds": holds}


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=3)
    options.add_argument("--quick", action="store_true", help="a thin network; claims nothing")
    chosen = options.parse_args()
    layout, wkv = (QUICK_LAYOUT, QUICK_WKV) if chosen.quick else (LAYOUT, WKV)
    found = [
        print_claim("step, 128 px", measure_layout(layout, chosen.runs), "ratio", LAYOUT_CLAIM),
        print_claim("WKV's share, 512 px", measure_wkv(wkv, chosen.runs), "share", WKV_CLAIM),
    ]
    write_report(chosen.out, {**header("cpu"), "quick": chosen.quick, "results": found})


if __name__ == "__main__":
    main()
