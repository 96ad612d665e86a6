"""Time a private step against a plain one: ``python benchmarks/privacy_step.py``.

Target on a CPU: at the same number of clips a step of DP-SGD over patients, with a clip each,
costs at most 2 of a plain step of the batch at once. Both are whole steps of the torch engine on
the same network, AdamW and all; the private one has its sampling, its patients one after the
other through the network, their exact gradients clipped, and its noise.

Beside the ratio stand the noise alone, and the memory that each step adds to the resident set.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from feat_step import opened
from memory import added_bytes
from timing import Job, header, parse, parser, take_turns, write_report
from torch import Tensor

from feat_fed.config import DiffusionConfig, FEATConfig, PatientPrivacyConfig, TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.privacy.noise import GaussianNoise
from feat_fed.train import RoundJob, open_engine
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.peers import ALONE
from feat_fed.train.private import PrivateSteps

TARGET = 2.0
MEASURED = (("noise", "noise alone"), ("plain", "a plain step"), ("private", "a private step"))


@dataclass(frozen=True)
class Size:
    """A network and the latent clips of a step."""

    name: str
    config: FEATConfig
    shape_BFCHW: tuple[int, int, int, int, int]


SIZES = (
    Size(
        "the demonstration's, 2.4 M",
        FEATConfig(in_channels=6, hidden_size=128, num_trios=2, num_heads=4, patch_size=4),
        (8, 16, 6, 16, 16),
    ),
    Size(
        "18 M",
        FEATConfig(in_channels=6, hidden_size=256, num_trios=4, num_heads=4),
        (4, 16, 6, 16, 16),
    ),
    Size("FEAT-S, 158 M", FEATConfig(), (2, 16, 4, 16, 16)),
)
QUICK = (Size("thin", FEATConfig(hidden_size=16, num_heads=2, num_trios=1), (2, 4, 4, 8, 8)),)


class OneClipEach:
    """Patients of a random clip each."""

    def __init__(self, shape_BFCHW: tuple[int, int, int, int, int]) -> None:
        self.z_BFCHW = torch.randn(shape_BFCHW)
        self.num_clips = len(self.z_BFCHW)

    @property
    def patients(self) -> Sequence[str]:
        """Their numbers."""
        return [str(each) for each in range(self.num_clips)]

    def windows_of(self, patient: str, number: int, seed: int) -> Tensor:
        """Return the patient's clip, so often."""
        return self.z_BFCHW[int(patient)].expand(number, *self.z_BFCHW.shape[1:])

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        """Return all clips."""
        return self.z_BFCHW


def measure(size: Size, runs: int) -> dict[str, object]:
    """Let the steps take turns; print and return what they cost."""
    model, clips = opened(size.config), OneClipEach(size.shape_BFCHW)
    number = clips.num_clips
    privacy = PatientPrivacyConfig(noise_multiplier=1.0, sample_rate=1.0)
    training = TrainingConfig(engine="torch", batch_size=number)
    job = RoundJob(
        model=size.config,
        diffusion=DiffusionConfig(),
        training=training,
        weights={},
        privacy=privacy,
        seed=0,
        first_step=0,
        total_steps=1,
    )
    schedule, weights = Schedule.linear(job.diffusion), list(model.parameters())
    with closing(open_engine(model, training)) as engine:
        steps = PrivateSteps(job, privacy, model, engine, clips, peers=ALONE)

        def plain() -> object:
            return engine.step(
                losses_of_batch(clips.z_BFCHW, schedule, job, step=0, micro_batch=number)
            )

        def noise() -> None:
            stream = GaussianNoise()
            for weight in weights:
                stream.add_to(torch.zeros_like(weight), standard_deviation=1.0)

        jobs: dict[str, Job] = {
            "noise": noise,
            "plain": plain,
            "private": lambda: steps.begin(0)(1),
        }
        times = take_turns(jobs, "cpu", runs)
        added = {name: added_bytes(jobs[name], "cpu") for name in ("plain", "private")}
    ratio = times["private"].over(times["plain"])
    print(f"{size.name}: (B, F, C, H, W) = {size.shape_BFCHW}")
    for name, title in MEASURED:
        memory = added.get(name)
        holds = "" if memory is None else f", adds {memory / 1e9:.2f} GB"
        print(f"  {title:16} {times[name].median_sec:8.3f} CPU s{holds}")
    print(f"  private / plain  {ratio:8.2f}, at most {TARGET:g} is wanted\n")
    return {
        "name": size.name,
        "shape_BFCHW": size.shape_BFCHW,
        "runs": {name: each.record() for name, each in times.items()},
        "added_bytes": added,
        "ratio": ratio,
        "target": TARGET,
    }


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=3)
    options.add_argument("--quick", action="store_true", help="tiny; shows that it runs, no more")
    chosen = parse(options)
    sizes = QUICK if chosen.quick else SIZES
    results: list[dict[str, object]] = []
    for size in sizes:
        results.append(measure(size, chosen.runs))
        write_report(chosen.out, {**header("cpu"), "quick": chosen.quick, "results": results})


if __name__ == "__main__":
    main()
