"""What the benchmarks share: jobs that take turns, their medians, and a report that says on what.

Other work on a machine comes and goes, so jobs that are compared run one after the other in
each turn, and are compared turn by turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

Job = Callable[[], object]


def parser(doc: str | None, *, runs: int) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    options.add_argument("--runs", type=int, default=runs, help="timed runs of each job")
    options.add_argument("--out", type=Path, help="JSON file to write")
    return options


def default_device() -> str:
    """Return ``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds(job: Job, device: str, calls: int = 1) -> float:
    """Return how long one of ``calls`` calls in a row takes, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        job()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def take_turns(
    jobs: Mapping[str, Job], device: str, runs: int, *, calls: int = 1, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of ``runs`` runs of each job, which run in turn.

    With ``warm_up`` a first turn, which fills caches and compiles, is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + warm_up):
        for name, job in jobs.items():
            taken = seconds(job, device, calls)
            if turn >= warm_up:
                times[name].append(taken)
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each job's median."""
    return {name: statistics.median(taken) for name, taken in times.items()}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over turns of one job's time in units of the other's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


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
