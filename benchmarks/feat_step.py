"""Time FEAT's training step against the published layout: ``python benchmarks/feat_step.py``.

Targets on a CPU, forward and backward, of FEAT-S:

1. at 128 px and 16 frames a step costs at most 0.75 of a straightforward transcription of the
   published layout, in float32 and under bfloat16 autocast, which is how FEAT is trained where
   a processor has it. The transcription (:mod:`published_layout`) takes WKV as a running sum in
   plain PyTorch, the fastest such form at these sizes; a second peer borrows our WKV, so that
   the layout alone is left to compare. Outputs and gradients agree before the clock runs;
2. at 512 px (1024 tokens a frame) WKV takes at most 5 % of a step.

Beside the first stand the part of our step that is matrix products, which every one of these
networks has to do, and the memory that each step adds to the resident set. For the second, one
of FEAT-S's nine equal trios is run, at full width and 16 frames, and the very calls of the
operator that its step makes are run alone, in turn with the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from memory import added_bytes
from published_layout import PublishedFEAT
from timing import Job, Times, header, parse, parser, take_turns, write_report
from torch import Tensor, nn
from torch.profiler import profile
from wkv import by_cumsum, in_float32

from feat_fed.config import DiffusionConfig, FEATConfig
from feat_fed.diffusion import Schedule, training_losses
from feat_fed.model import FEAT
from feat_fed.model.wkv import wkv_paper

LAYOUT_TARGET = 0.75
WKV_TARGET = 0.05
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
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


@dataclass(frozen=True)
class Finding:
    """Two jobs' times, the ratio of their costs, and the most that it should be."""

    name: str
    size: Size
    times: dict[str, Times]
    ratio: float
    target: float
    more: dict[str, float]

    def show(self, *, quick: bool) -> None:
        """Print it."""
        trios = self.size.config.num_trios
        print(f"{self.name}: (B, F, C, H, W) = {self.size.shape_BFCHW}, {trios} trios")
        for job, times in self.times.items():
            spread = max(times.cost_sec) - min(times.cost_sec)
            print(f"  {job:24} {times.median_sec:8.3f} CPU s, spread {spread:.3f}")
        for name, value in self.more.items():
            print(f"  {name:24} {value:8.3f}")
        verdict = "met" if self.ratio <= self.target else "missed"
        aim = "" if quick else f", target at most {self.target}: {verdict}"
        print(f"  {self.name:34} {self.ratio:8.3f}{aim}\n")

    def record(self) -> dict[str, object]:
        """Return it for a report."""
        return {
            "name": self.name,
            "config": self.size.config.model_dump(),
            "shape_BFCHW": self.size.shape_BFCHW,
            "runs": {job: times.record() for job, times in self.times.items()},
            "ratio": self.ratio,
            "target": self.target,
            **self.more,
        }


def opened(config: FEATConfig) -> FEAT:
    """Return a network with noise on every weight, so that no gate is closed."""
    torch.manual_seed(0)
    model = FEAT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def step_of(
    model: nn.Module, size: Size, dtype: torch.dtype = torch.float32
) -> Callable[[], Tensor]:
    """Return a training step without its optimiser; it gives back the latents' gradient.

    With another ``dtype`` than float32 the network runs under autocast to it.
    """
    torch.manual_seed(1)
    z, noise = torch.randn(2, *size.shape_BFCHW)
    t = torch.randint(0, 1000, z.shape[:1])
    schedule = Schedule.linear(DiffusionConfig())

    def step() -> Tensor:
        model.zero_grad()
        z_leaf = z.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = training_losses(model, z_leaf, t, noise, schedule)
        losses.total_B.mean().backward()  # type: ignore[no-untyped-call]
        assert z_leaf.grad is not None
        gradient: Tensor = z_leaf.grad
        return gradient

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


def products_share(step: Job) -> float:
    """Return the part of a step's time that is spent in matrix products."""
    with profile() as found:
        step()
    by_name = {each.key: each.self_cpu_time_total for each in found.key_averages()}
    return float(sum(by_name.get(name, 0) for name in PRODUCTS) / sum(by_name.values()))


def measure_layout(size: Size, runs: int, dtype: torch.dtype) -> Finding:
    """Time a step of ours, of the transcription, and of one that borrows our WKV, in turn."""
    ours = opened(size.config)
    networks: dict[str, nn.Module] = {
        "ours": ours,
        "transcription": PublishedFEAT.like(ours, in_float32(by_cumsum)),
        "layout alone": PublishedFEAT.like(ours, wkv_paper),
    }
    for name in ("transcription", "layout alone"):
        assert_same_function(ours, networks[name], size)
    jobs = {name: step_of(network, size, dtype) for name, network in networks.items()}
    times = take_turns(jobs, "cpu", runs)
    more = {
        "ours / layout alone": times["ours"].over(times["layout alone"]),
        "products_of_ours": products_share(jobs["ours"]),
    }
    for name, job in jobs.items():
        if (added := added_bytes(job, "cpu")) is not None:
            more[f"{name.replace(' ', '_')}_adds_GB"] = added / 1e9
    title = f"ours / transcription, {str(dtype).removeprefix('torch.')}"
    ratio = times["ours"].over(times["transcription"])
    return Finding(title, size, times, ratio, LAYOUT_TARGET, more)


def wkv_calls(model: FEAT, step: Job) -> list[Job]:
    """Return every call of WKV that a step makes, as one that runs it alone, both ways."""
    calls: list[Job] = []
    mixers: list[Any] = [module for module in model.modules() if hasattr(module, "wkv")]
    operators = [mixer.wkv for mixer in mixers]
    for mixer, operator in zip(mixers, operators, strict=True):
        mixer.wkv = _listening(operator, calls)
    step()
    for mixer, operator in zip(mixers, operators, strict=True):
        mixer.wkv = operator
    return calls


def _listening(operator: Callable[..., Tensor], calls: list[Job]) -> Callable[..., Tensor]:
    def record(*tensors: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        leaves = [each.detach().requires_grad_() for each in tensors]
        y = operator(*tensors, **options)
        gy = torch.randn_like(y)
        calls.append(lambda: torch.autograd.grad(operator(*leaves, **options), leaves, gy))
        return y

    return record


def measure_wkv(size: Size, runs: int) -> Finding:
    """Time a step and, in turn with it, the calls of WKV in it."""
    model = opened(size.config)
    step = step_of(model, size)
    calls = wkv_calls(model, step)
    jobs: dict[str, Job] = {"step": step, "WKV alone": lambda: [call() for call in calls]}
    # Listening to the calls has warmed the step up.
    times = take_turns(jobs, "cpu", runs, warm_up=False)
    share = times["WKV alone"].over(times["step"])
    return Finding("WKV / step", size, times, share, WKV_TARGET, {"wkv_calls": len(calls)})


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=3)
    options.add_argument(
        "--quick", action="store_true", help="a thin network; shows that it runs, no more"
    )
    chosen = parse(options)
    layout, wkv = (QUICK_LAYOUT, QUICK_WKV) if chosen.quick else (LAYOUT, WKV)
    results = []
    for measure in (
        lambda: measure_layout(layout, chosen.runs, torch.float32),
        lambda: measure_layout(layout, chosen.runs, torch.bfloat16),
        lambda: measure_wkv(wkv, chosen.runs),
    ):
        found = measure()
        found.show(quick=chosen.quick)
        results.append(found.record())
    write_report(chosen.out, {**header("cpu"), "quick": chosen.quick, "results": results})


if __name__ == "__main__":
    main()
