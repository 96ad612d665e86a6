"""What the benchmarks share: jobs that take turns, their medians, and a report that says on what.

Other work on a machine comes and goes. So jobs that are compared run one after the other in
each turn and are compared turn by turn; and what a job costs is counted on a CPU in seconds
of processor time, which a neighbour changes least, and on a GPU in seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

Job = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one job, a run each."""

    device: str
    wall_sec: tuple[float, ...]
    cpu_sec: tuple[float, ...]
    """Of processor time, over all threads."""

    @property
    def cost_sec(self) -> tuple[float, ...]:
        """Processor time on a CPU, else the clock's."""
        return self.cpu_sec if self.device == "cpu" else self.wall_sec

    @property
    def median_sec(self) -> float:
        """Median cost of a run."""
        return statistics.median(self.cost_sec)

    def over(self, other: Times) -> float:
        """Return the median over turns of this cost in units of the other's."""
        turns = zip(self.cost_sec, other.cost_sec, strict=True)
        return statistics.median(a / b for a, b in turns)

    def record(self) -> dict[str, object]:
        """Return every run, for a report."""
        return {"wall_sec": self.wall_sec, "cpu_sec": self.cpu_sec}


def parser(doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument("--runs", type=int, default=runs, help="timed runs of each job")
    options.add_argument(
        "--threads", type=int, default=1, help="of the CPU; several spin while they wait"
    )
    options.add_argument("--out", type=Path, help="JSON file to write")
    return options


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the command line's options, its threads set."""
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def default_device() -> str:
    """Return ``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _run(job: Job, device: str, calls: int) -> tuple[float, float]:
    """Return wall and CPU seconds of one of ``calls`` calls in a row, the GPU's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        job()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls


def take_turns(
    jobs: Mapping[str, Job], device: str, runs: int, *, calls: int = 1, warm_up: bool = True
) -> dict[str, Times]:
    """Run each job ``runs`` times, in turn.

    With ``warm_up`` a first turn, which fills caches and compiles, is not counted.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for turn in range(runs + warm_up):
        for name, job in jobs.items():
            taken = _run(job, device, calls)
            if turn >= warm_up:
                found[name].append(taken)
    return {name: Times(device, *zip(*taken, strict=True)) for name, taken in found.items()}


def processor() -> str:
    """Return the processor's name as Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def header(device: str) -> dict[str, object]:
    """Return when, on what and with which versions something was measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "feat_fed": version("feat-fed"),
    }


def write_report(path: Path | None, report: Mapping[str, object]) -> None:
    """Write a report as JSON, if a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")
