"""Compare FEAT with a softmax-attention twin: ``python benchmarks/attention_twin.py``.

The twin has FEAT's width and Latte's order of blocks (arXiv 2401.03048): transformer blocks
over a frame's tokens and over a place's frames, in turn, with adaLN from the timestep. It has
as many blocks as bring its parameters nearest to FEAT's. Both keep tokens in one layout and
compute adaLN once a clip, so that what differs is the mixing.

For each clip: seconds of a training step and of one evaluation (a sampler of n steps takes n),
forward FLOPs, weights, and the memory that a step adds to the resident set. FLOPs are those of
matrix products and convolutions, 2 a multiply-add; WKV, which is elementwise, is some 0.1 %.

Timed are one trio of FEAT-S and its twin, unless ``--trios`` says more; FLOPs are also
counted for FEAT-S as published. Shapes: B clips, F frames, H and W token rows and columns,
L = H W, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from matplotlib import rc_context
from matplotlib.figure import Figure
from memory import added_bytes
from timing import Job, default_device, header, parse, parser, take_turns, write_report
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from feat_fed.config import FEATConfig
from feat_fed.model import FEAT
from feat_fed.model.blocks import FinalLayer
from feat_fed.model.layers import TimestepEmbedder, xavier_linear

LATENT_PX = 8
"""Pixels a side of one latent pixel of the Stable Diffusion autoencoder."""
RESOLUTIONS = [(128, 16), (256, 16), (512, 16)]
LENGTHS = [(128, 16), (128, 64), (128, 128)]
QUICK_RESOLUTIONS = [(64, 4), (128, 4)]
QUICK_LENGTHS = [(64, 4), (64, 8)]

Clip = tuple[int, int]
"""Pixels a side and frames."""


class TransformerBlock(nn.Module):
    """Softmax attention and an MLP, both modulated (adaLN-Zero, arXiv 2212.09748)."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.num_heads = config.num_heads
        self.adaln = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))
        self.qkv, self.output = xavier_linear(C, 3 * C), xavier_linear(C, C)
        hidden = round(C * config.mlp_ratio)
        self.mlp = nn.Sequential(
            xavier_linear(C, hidden), nn.GELU(approximate="tanh"), xavier_linear(hidden, C)
        )

    def forward(self, x_BMTC: Tensor, time_BC: Tensor) -> Tensor:
        """Mix each of M sequences of T tokens."""
        modulation = self.adaln(time_BC)[:, None, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        x = torch.addcmul(x_BMTC, gate1, self._attend(_modulated(x_BMTC, shift1, scale1)))
        return torch.addcmul(x, gate2, self.mlp(_modulated(x, shift2, scale2)))

    def _attend(self, x_BMTC: Tensor) -> Tensor:
        by_head = "b m t (three e c) -> three (b m) e t c"
        q, k, v = rearrange(self.qkv(x_BMTC), by_head, three=3, e=self.num_heads)
        y = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.output(rearrange(y, "(b m) e t c -> b m t (e c)", b=len(x_BMTC)))
        return mixed


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class AttentionTwin(nn.Module):
    """Spatial and temporal transformer blocks in turn."""

    def __init__(self, config: FEATConfig, num_blocks: int) -> None:
        super().__init__()
        self.config = config
        channels, p = config.in_channels, config.patch_size
        self.patch = xavier_linear(channels * p * p, config.hidden_size)
        self.time = TimestepEmbedder(config.hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(num_blocks))
        self.final = FinalLayer(config.hidden_size, 2 * channels * p * p)

    def forward(self, z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return (B, F, 2C, H, W)."""
        p = self.config.patch_size
        height, width = (size // p for size in z_BFCHW.shape[-2:])
        x = self.patch(rearrange(z_BFCHW, "b f c (h p) (w q) -> b f (h w) (c p q)", p=p, q=p))
        time_BC = self.time(t_B, z_BFCHW.dtype)
        x = x + positions(height * width, x.shape[-1]).to(x)
        for i, block in enumerate(self.blocks):
            if i == 1:
                x = x + positions(z_BFCHW.shape[1], x.shape[-1])[:, None].to(x)
            # Every second block sees frames as tokens, and places as the batch.
            x = block(x.transpose(1, 2), time_BC).transpose(1, 2) if i % 2 else block(x, time_BC)
        patches = self.final(x.unflatten(2, (height, width)), time_BC)
        out: Tensor = rearrange(patches, "b f h w (p q c) -> b f c (h p) (w q)", p=p, q=p)
        return out


def positions(count: int, channels: int) -> Tensor:
    """Return sines and cosines of positions, (count, channels)."""
    half = channels // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half) / half)
    phase = torch.arange(count)[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def size_of(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def twin_blocks(config: FEATConfig) -> int:
    """Return the even number of blocks whose parameters come nearest to FEAT's."""
    with torch.device("meta"):
        wanted, two, four = (
            size_of(net) for net in (FEAT(config), *(AttentionTwin(config, n) for n in (2, 4)))
        )
    return 2 + 2 * max(round((wanted - two) / (four - two)), 0)


def networks(config: FEATConfig) -> dict[str, Callable[[], nn.Module]]:
    """Return how to build both."""
    blocks = twin_blocks(config)
    return {"FEAT": lambda: FEAT(config), "attention": lambda: AttentionTwin(config, blocks)}


def latents(config: FEATConfig, clip: Clip, device: str) -> tuple[Tensor, Tensor]:
    """Return one clip's noisy latents and its timestep."""
    px, frames = clip
    side = px // LATENT_PX
    z = torch.randn(1, frames, config.in_channels, side, side, device=device)
    return z, torch.full((1,), 500, device=device)


def forward_flops(build: Callable[[], nn.Module], config: FEATConfig, clip: Clip) -> int:
    """Return the FLOPs of products and convolutions; nothing is computed for it."""
    with torch.device("meta"):
        model = build()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*latents(config, clip, "meta"))
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class Work:
    """A network on a device, and a clip for it."""

    model: nn.Module
    z: Tensor
    t: Tensor

    def step(self) -> None:
        """Run forward and backward."""
        self.model.zero_grad()
        self.model(self.z, self.t).square().mean().backward()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Run forward, as a sampler does."""
        self.model(self.z, self.t)


def measure(config: FEATConfig, clip: Clip, device: str, runs: int) -> list[dict[str, object]]:
    """Return a row for each network, timed in turn."""
    jobs: dict[str, Job] = {}
    facts: dict[str, dict[str, object]] = {}
    for name, build in networks(config).items():
        torch.manual_seed(0)
        work = Work(build().to(device), *latents(config, clip, device))
        work.step()
        jobs |= {f"{name} step": work.step, f"{name} evaluation": work.evaluate}
        parameters = size_of(work.model)
        facts[name] = {
            "network": name,
            "px": clip[0],
            "frames": clip[1],
            "parameters": parameters,
            "weights_bytes": 4 * parameters,
            "forward_flops": forward_flops(build, config, clip),
            "step_added_bytes": added_bytes(work.step, device),
        }
    # The steps are warm.
    times = take_turns(jobs, device, runs, warm_up=False)
    for name, row in facts.items():
        for what in ("step", "evaluation"):
            found = times[f"{name} {what}"]
            row |= {f"{what}_sec": found.median_sec, f"{what}_runs": found.record()}
    return list(facts.values())


def published_flops(clips: list[Clip]) -> list[dict[str, object]]:
    """Return forward FLOPs of FEAT-S and of its twin, both whole."""
    config = FEATConfig()
    return [
        {
            "network": name,
            "px": clip[0],
            "frames": clip[1],
            "forward_flops": forward_flops(build, config, clip),
        }
        for clip in clips
        for name, build in networks(config).items()
    ]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a clip and network a line."""
    print(f"{'px':>4} {'frames':>6}  {'network':10}{'params M':>9}{'weights MB':>12}", end="")
    print(f"{'forward GF':>12}{'step s':>8}{'evaluation s':>14}{'step adds MB':>14}")
    for row in rows:
        memory = row["step_added_bytes"]
        added = "-" if memory is None else f"{memory / 1e6:.0f}"
        print(
            f"{row['px']:4} {row['frames']:6}  {row['network']:10}"
            f"{row['parameters'] / 1e6:9.1f}{row['weights_bytes'] / 1e6:12.0f}"
            f"{row['forward_flops'] / 1e9:12.1f}{row['step_sec']:8.2f}"
            f"{row['evaluation_sec']:14.2f}{added:>14}"
        )


def plot(
    rows: list[dict[str, Any]], resolutions: list[Clip], lengths: list[Clip], path: Path, cpu: bool
) -> None:
    """Draw time against resolution and against frames."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "feat-fed"}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, clips, key, label in (
            (left, resolutions, "px", f"pixels a side, {resolutions[0][1]} frames"),
            (right, lengths, "frames", f"frames, {lengths[0][0]} px"),
        ):
            for name, colour in (("FEAT", "#0072B2"), ("attention", "#D55E00")):
                by_clip = {(r["px"], r["frames"]): r for r in rows if r["network"] == name}
                chosen = [by_clip[clip] for clip in clips]
                for what, style in (("step", "o-"), ("evaluation", "o--")):
                    axes.plot(
                        [row[key] for row in chosen],
                        [row[f"{what}_sec"] for row in chosen],
                        style, color=colour, label=f"{name}, {what}",
                    )  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.set_xticks([row[key] for row in chosen], [str(row[key]) for row in chosen])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        left.set_ylabel(f"{'CPU ' if cpu else ''}seconds a clip")
        left.legend(fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=2)
    options.add_argument("--device", choices=["cpu", "cuda"], default=default_device())
    options.add_argument("--trios", type=int, default=1, help="of FEAT-S, 9 as published")
    options.add_argument("--quick", action="store_true", help="thin networks, small clips")
    chosen = parse(options)
    config = FEATConfig(num_trios=chosen.trios)
    resolutions, lengths = RESOLUTIONS, LENGTHS
    if chosen.quick:
        config = FEATConfig(num_trios=chosen.trios, hidden_size=32, num_heads=2)
        resolutions, lengths = QUICK_RESOLUTIONS, QUICK_LENGTHS
    clips = list(dict.fromkeys([*resolutions, *lengths]))
    rows = [row for clip in clips for row in measure(config, clip, chosen.device, chosen.runs)]
    print_rows(rows)
    report = {
        **header(chosen.device),
        "config": config.model_dump(),
        "twin_blocks": twin_blocks(config),
        "rows": rows,
        "published_size": {
            "twin_blocks": twin_blocks(FEATConfig()),
            "rows": published_flops([] if chosen.quick else clips),
        },
    }
    write_report(chosen.out, report)
    if chosen.out:
        plot(rows, resolutions, lengths, chosen.out.with_suffix(".svg"), chosen.device == "cpu")


if __name__ == "__main__":
    main()
