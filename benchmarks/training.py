"""Time training at a site: ``python benchmarks/training.py``.

On a CPU, in one run:

- a step of plain torch and of DeepSpeed in one process, and in two under torch and ZeRO 1 to 3,
  with the resident memory of a process at its peak (libraries included);
- what a round costs beside its steps: one of one step, less such a step, in this process, in
  one of its own, and in two;
- the wait for the batch as a share of a step, from a store of latents that the wavelet codec
  made of generated clips.

With ``--device cuda``: FEAT-S and FEAT-L under bfloat16, the largest batch that fits, and how near
a whole step (optimiser included) comes to what the GPU reaches in a large matrix product.

Rounds are real ones (:func:`feat_fed.train.train_round`). A step is the time between two steps'
reports; two processes share one machine, so that they show what sharing costs and saves, and
no speed-up. Seconds are by the clock: a quiet machine is needed.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from gpu import CLIP_FCHW, NETWORKS, ceilings, forward_flops
from timing import header, parse, parser, write_report

from feat_fed.codec import LatentStore, LatentWindows, build_codec, prepare
from feat_fed.config import (
    ClipConfig,
    CodecConfig,
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    TrainingConfig,
)
from feat_fed.data import ClipEntry
from feat_fed.data.inventory.look import content_sha256
from feat_fed.data.phantoms import Shape, echo_clip
from feat_fed.data.synthetic import write_mp4
from feat_fed.diffusion import Schedule
from feat_fed.errors import MemoryShortError
from feat_fed.model import FEAT
from feat_fed.train import RoundHooks, RoundJob, StepProgress, open_engine, train_round, weights_of
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.faults import torch_errors
from feat_fed.train.workers import train_in_workers

WAYS = {
    "torch here": ("torch", 1, 0),
    "DeepSpeed here": ("deepspeed", 1, 0),
    "torch": ("torch", 1, 0),
    "DeepSpeed": ("deepspeed", 1, 0),
    "torch x 2": ("torch", 2, 0),
    "ZeRO-1 x 2": ("deepspeed", 2, 1),
    "ZeRO-2 x 2": ("deepspeed", 2, 2),
    "ZeRO-3 x 2": ("deepspeed", 2, 3),
}
"""Engine, processes, ZeRO stage; ``here`` in this process, all else in processes of its own."""


@dataclass(frozen=True)
class Size:
    """The network, the clips and the steps of a round."""

    model: FEATConfig
    clips: ClipConfig
    batch: int
    steps: int
    ways: tuple[str, ...] = tuple(WAYS)


FULL = Size(
    FEATConfig(in_channels=6, hidden_size=256, num_trios=4, num_heads=4, patch_size=2),
    ClipConfig(frames=16, size_px=64),
    batch=4,
    steps=6,
)
QUICK = Size(
    FEATConfig(in_channels=6, hidden_size=16, num_trios=1, num_heads=2),
    ClipConfig(frames=4, size_px=32),
    batch=2,
    steps=3,
    ways=("torch here", "torch", "torch x 2"),
)


@dataclass
class Round:
    """What a round took, in seconds and bytes."""

    whole_sec: float = 0.0
    steps_at: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def step_sec(self) -> float:
        """Median of a step; the first one, which warms up, has no step before it."""
        return median(after - before for before, after in pairwise(self.steps_at))


def stored_clips(folder: Path, size: Size) -> LatentWindows:
    """Draw clips, and encode them into a store."""
    entries = []
    for number in range(4):
        path = folder / f"{number}.mp4"
        shape = Shape(frames=3 * size.clips.frames, size_px=size.clips.size_px, fps=30.0)
        write_mp4(path, echo_clip(shape, gain=1.0, rng=np.random.default_rng(number)), 30.0, "P")
        entries.append(
            ClipEntry(
                source=(path,),
                sha256=content_sha256((path,)),
                patient=f"{number:064x}",
                num_frames=shape.frames,
                height_px=shape.size_px,
                width_px=shape.size_px,
                fps=30.0,
            )
        )
    codec = build_codec(CodecConfig())
    made = prepare(entries, store=LatentStore(folder / "store"), codec=codec, clips=size.clips)
    return LatentWindows(made, codec=codec, clips=size.clips)


def job_of(size: Size, way: str, steps: int, threads: int) -> RoundJob:
    """Return a round of one way to train."""
    engine, processes, stage = WAYS[way]
    torch.manual_seed(0)
    return RoundJob(
        model=size.model,
        diffusion=DiffusionConfig(),
        training=TrainingConfig.model_validate(
            {"engine": engine, "local_steps": steps, "batch_size": size.batch}
        ),
        weights=weights_of(FEAT(size.model)),
        compute=ComputeConfig(device="cpu", devices=processes, zero_stage=stage, threads=threads),
        seed=0,
        first_step=0,
        total_steps=steps,
    )


@contextmanager
def peak_of(found: Round) -> Iterator[None]:
    """Watch the resident sets of the workers, for the largest that one ever has."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.02):
            for worker in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    found.peak_bytes = max(found.peak_bytes, worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()


def take_round(job: RoundJob, clips: LatentWindows, *, here: bool) -> Round:
    """Train a round, and return what it took."""
    found = Round()

    def stepped(_: StepProgress) -> None:
        found.steps_at.append(time.perf_counter())

    train = train_round if here else train_in_workers
    with peak_of(found):
        started = time.perf_counter()
        train(job, train=clips, heldout=None, hooks=RoundHooks(progress=stepped))
        found.whole_sec = time.perf_counter() - started
    return found


def measure_ways(
    size: Size, clips: LatentWindows, runs: int, threads: int
) -> list[dict[str, object]]:
    """Let the ways take turns; print and return steps, memory and what a round costs beside."""
    turns: list[dict[str, tuple[Round, ...]]] = []
    for _ in range(runs):
        turns.append(
            {
                way: tuple(
                    take_round(job_of(size, way, steps, threads), clips, here="here" in way)
                    for steps in (size.steps, 1)
                )
                for way in size.ways
            }
        )
    print("way              step ms   of torch   peak MB   round beside its step, s")
    rows: list[dict[str, object]] = []
    for way in size.ways:
        rounds = [turn[way][0] for turn in turns]
        step = median(each.step_sec for each in rounds)
        ratio = median(turn[way][0].step_sec / turn["torch"][0].step_sec for turn in turns)
        peak = max(each.peak_bytes for each in rounds)
        beside = median(turn[way][1].whole_sec - turn[way][0].step_sec for turn in turns)
        print(f"{way:14} {1000 * step:9.1f} {ratio:10.2f} {peak / 1e6:9.0f} {beside:9.2f}")
        rows.append(
            {
                "way": way,
                "step_sec": [each.step_sec for each in rounds],
                "over_torch": ratio,
                "peak_bytes": peak,
                "beside_its_step_sec": beside,
            }
        )
    return rows


def measure_wait(size: Size, clips: LatentWindows, runs: int, step_sec: float) -> dict[str, object]:
    """Print and return how long a batch takes out of the store, beside a step with it."""
    waits = []
    for step in range(5 * runs):
        started = time.perf_counter()
        clips.batch(0, step, size.batch)
        waits.append(time.perf_counter() - started)
    wait = median(waits)
    print(f"\na batch of {size.batch}: {1000 * wait:.2f} ms, {wait / step_sec:.2%} of a step")
    return {"batch_sec": wait, "share_of_step": wait / step_sec}


def gpu_step_sec(name: str, batch: int, runs: int) -> float:
    """Return the median seconds of a whole step of torch under bfloat16 on the GPU."""
    training = TrainingConfig(engine="torch", precision="bf16", batch_size=batch)
    model = FEAT(NETWORKS[name]).to("cuda")
    job = RoundJob(
        model=NETWORKS[name],
        diffusion=DiffusionConfig(),
        training=training,
        weights={},
        seed=0,
        first_step=0,
        total_steps=1,
    )
    schedule = Schedule.linear(job.diffusion).to(torch.device("cuda"))
    z_BFCHW = torch.randn(batch, *CLIP_FCHW, device="cuda")
    found = []
    with torch_errors(), closing(open_engine(model, training)) as engine:
        for step in range(runs + 2):
            torch.cuda.synchronize()
            started = time.perf_counter()
            engine.step(losses_of_batch(z_BFCHW, schedule, job, step=step, micro_batch=batch))
            torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
    return median(found[2:])


def measure_gpu(runs: int) -> dict[str, object]:
    """Double the batch until it does not fit; print and return the steps of all that do."""
    ceiling = ceilings(runs)
    print(f"ceiling: {ceiling['TFLOP_per_sec']:.0f} TFLOP/s in a large bf16 product")
    print("network batch    step ms  clips/s  TFLOP/s   MFU   peak GB")
    rows: list[dict[str, object]] = []
    for name in NETWORKS:
        batch = 1
        while True:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            try:
                step = gpu_step_sec(name, batch, runs)
            except MemoryShortError:
                print(f"{name:7} {batch:5}  does not fit")
                break
            tflop = 3e-12 * forward_flops(NETWORKS[name], batch) / step
            share = tflop / ceiling["TFLOP_per_sec"]
            peak = torch.cuda.max_memory_allocated()
            print(
                f"{name:7} {batch:5} {1000 * step:10.1f} {batch / step:8.1f} {tflop:8.1f}"
                f" {share:5.0%} {peak / 1e9:9.1f}"
            )
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "step_sec": step,
                    "TFLOP_per_sec": tflop,
                    "MFU": share,
                    "peak_bytes": peak,
                }
            )
            batch *= 2
    return {"ceilings": ceiling, "results": rows}


def main() -> None:
    """Measure, print, and write what was found."""
    options = parser(__doc__, runs=3)
    options.add_argument("--quick", action="store_true", help="tiny; shows that it runs")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parse(options)
    if chosen.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("training.py: torch finds no CUDA device here; leave out --device cuda")
        write_report(chosen.out, {**header("cuda"), **measure_gpu(chosen.runs)})
        return
    size = QUICK if chosen.quick else FULL
    with tempfile.TemporaryDirectory() as name:
        clips = stored_clips(Path(name), size)
        rows = measure_ways(size, clips, chosen.runs, chosen.threads)
        steps = rows[0]["step_sec"]
        assert isinstance(steps, list)
        wait = measure_wait(size, clips, chosen.runs, median(steps))
    report = {**header("cpu"), "quick": chosen.quick, "results": rows, "wait": wait}
    write_report(chosen.out, report)


if __name__ == "__main__":
    main()
