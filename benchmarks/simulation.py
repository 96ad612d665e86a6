"""Does memory grow with the rounds of a simulation: ``python benchmarks/simulation.py``.

32 virtual hospitals train a tiny network with ``feat-fed simulate``, first with a Ray of its own,
then on a cluster of two processes that are started as a person would (``ray start --head``, ``ray
start --address``), with half of the cores each. Twice a second the proportional set size
(PSS, which counts what processes share once) of all processes that belong to it is summed up:
the coordinator's, the workers' that are a hospital in turn, and Ray's own.

A round counts from the end of the one before. Nothing is said of the first, in which workers
load their libraries and hospitals encode their clips.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure
from timing import header, parse, parser, write_report

from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.processes import free_port

STUDY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "model": {"in_channels": 6, "hidden_size": 32, "num_trios": 1, "num_heads": 2},
    "clips": {"frames": 4, "size_px": 32},
    "training": {"local_steps": 10, "batch_size": 2, "learning_rate": 0.002, "heldout_clips": 2},
    "sampler": {"kind": "ddim", "steps": 5, "num_clips": 2},
}
ROLES = ("coordinator", "hospitals", "Ray")
_EVERY_SEC = 0.5
_END_SEC = 30


@dataclass
class Seen:
    """Memory over the time of a run, and when its rounds ended."""

    began_at: float = field(default_factory=time.monotonic)
    at_sec: list[float] = field(default_factory=list)
    pss_mb: dict[str, list[float]] = field(default_factory=lambda: {role: [] for role in ROLES})
    ends_sec: list[float] = field(default_factory=list)

    def look(self, roots: Sequence[int], coordinator: int) -> None:
        """Note what the processes below ``roots`` hold now."""
        held = Counter[str]()
        for root in roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                top = psutil.Process(root)
                for process in (top, *top.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        held[_role(process, coordinator)] += process.memory_full_info().pss
        self.at_sec.append(time.monotonic() - self.began_at)
        for role in ROLES:
            self.pss_mb[role].append(held[role] / 1e6)

    def total_mb(self) -> list[float]:
        """Return the sum over roles."""
        return [sum(each) for each in zip(*self.pss_mb.values(), strict=True)]

    def of_rounds(self) -> list[dict[str, float]]:
        """Return median and peak of the sum in each round from the second on."""
        rounds = []
        for begin, end in itertools.pairwise(self.ends_sec):
            pairs = zip(self.at_sec, self.total_mb(), strict=True)
            held = [mb for at, mb in pairs if begin <= at < end]
            rounds.append({"median_mb": statistics.median(held), "peak_mb": max(held)})
        return rounds


def main() -> None:
    """Run both and report."""
    options = parser(__doc__, runs=1)
    options.add_argument("--sites", type=int, default=32)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--only", choices=["local", "cluster"], help="keeps the other of --out; both if unset"
    )
    options.add_argument("--quick", action="store_true", help="4 hospitals, 2 rounds")
    chosen = parse(options)
    if chosen.quick:
        chosen.sites, chosen.rounds = 4, 2
    report: dict[str, Any] = {
        **header("cpu"),
        "cpus": os.cpu_count(),
        "sites": chosen.sites,
        "rounds": chosen.rounds,
        "results": {},
    }
    if chosen.only and chosen.out and chosen.out.exists():
        report["results"] = json.loads(chosen.out.read_text())["results"]
    for name in [chosen.only] if chosen.only else ["local", "cluster"]:
        with tempfile.TemporaryDirectory() as scratch, _cluster(name == "cluster") as cluster:
            seen = _measured(Path(scratch), chosen.sites, chosen.rounds, *cluster)
        report["results"][name] = _row(name, seen)
        write_report(chosen.out, report)
    if chosen.out:
        _plot(report["results"], chosen.out.with_suffix(".svg"))


@contextlib.contextmanager
def _cluster(wanted: bool) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    """Start two Ray nodes and yield their address and processes, if they are wanted."""
    if not wanted:
        yield None, ()
        return
    address = f"127.0.0.1:{free_port()}"
    cpus = max(1, (os.cpu_count() or 1) // 2)
    port = address.rpartition(":")[2]
    places = (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address={address}"])
    nodes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        try:
            for place in places:
                command = ["start", *place, f"--num-cpus={cpus}", "--disable-usage-stats"]
                own = [f"--temp-dir={folder}"] if "--head" in place else []
                nodes.append(_started([_beside_python("ray"), *command, *own, "--block"]))
                _wait_for_nodes(address, len(nodes))
            yield address, tuple(each.pid for each in nodes)
        finally:
            for node in reversed(nodes):
                _end(node)


def _wait_for_nodes(address: str, wanted: int) -> None:
    status = [_beside_python("ray"), "status", f"--address={address}"]
    for _ in range(60):
        told = subprocess.run(status, capture_output=True, text=True, check=False).stdout
        if told.partition("Active:")[2].partition("Pending:")[0].count("node_") >= wanted:
            return
        time.sleep(1)
    raise SystemExit(f"Ray's node {wanted} did not come")


def _measured(
    folder: Path, sites: int, rounds: int, address: str | None, nodes: tuple[int, ...]
) -> Seen:
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump({**STUDY, "sites": {"minimum": sites}}))
    data = folder / "data"
    write_demo_hospitals(data, hospitals=sites, patients_per_hospital=2, clips_per_patient=1)
    cluster = ["--ray-address", address] if address else []
    entry = "from feat_fed.cli.main import run_main; run_main()"
    command = [
        *(sys.executable, "-c", entry, "simulate", "--study", str(study), "--run", "run"),
        *("--data", str(data), "--sites", str(sites), "--rounds", str(rounds)),
        *("--runs", str(folder), *cluster),
    ]
    seen, records = Seen(), folder / "run" / "metrics.jsonl"
    simulate = _started(command)
    try:
        while simulate.poll() is None:
            seen.look((simulate.pid, *nodes), simulate.pid)
            done = records.read_bytes().count(b"\n") if records.exists() else 0
            now = time.monotonic() - seen.began_at
            seen.ends_sec += [now] * (done - len(seen.ends_sec))
            time.sleep(_EVERY_SEC)
    finally:
        _end(simulate)
    if simulate.returncode:
        raise SystemExit(f"feat-fed simulate ended with {simulate.returncode}")
    return seen


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SEC)
    process.kill()
    process.wait()


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _role(process: psutil.Process, coordinator: int) -> str:
    if process.pid == coordinator:
        return "coordinator"
    title = " ".join(process.cmdline()[:1])
    return "hospitals" if title.startswith("ray::ClientAppActor") else "Ray"


def _row(name: str, seen: Seen) -> dict[str, Any]:
    rounds = seen.of_rounds()
    ends = [0.0, *seen.ends_sec]
    row = {
        "round_sec": [late - early for early, late in itertools.pairwise(ends)],
        "rounds": rounds,
        "last_over_second": rounds[-1]["peak_mb"] / rounds[0]["peak_mb"],
        "peak_mb": max(seen.total_mb()),
        "at_sec": [round(each, 1) for each in seen.at_sec],
        "pss_mb": {role: [round(each, 1) for each in held] for role, held in seen.pss_mb.items()},
        "ends_sec": [round(each, 1) for each in seen.ends_sec],
    }
    peaks = ", ".join(f"{each['peak_mb']:.0f}" for each in rounds)
    print(
        f"{name}: peak PSS in rounds 2 to {len(rounds) + 1}: {peaks} MB "
        f"(last over second {row['last_over_second']:.3f}), peak {row['peak_mb']:.0f} MB",
        flush=True,
    )
    return row


def _plot(found: dict[str, Any], path: Path) -> None:
    with rc_context({"font.size": 9, "svg.hashsalt": "feat-fed", "svg.fonttype": "none"}):
        figure = Figure(figsize=(3.6 * len(found), 3.2), layout="constrained")
        all_axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for axes, (name, row) in zip(all_axes, found.items(), strict=True):
            total = [sum(each) for each in zip(*row["pss_mb"].values(), strict=True)]
            axes.plot(row["at_sec"], total, color="black", label="all together")
            for role, held in row["pss_mb"].items():
                axes.plot(row["at_sec"], held, linewidth=1, label=role)
            for end in row["ends_sec"]:
                axes.axvline(end, color="0.8", linewidth=0.8, zorder=0)
            axes.set(xlabel="seconds (grey: a round ended)", title=name)
            axes.spines[["top", "right"]].set_visible(False)
        # One axis for all, and its end after the last curve: an earlier one's would cut others off.
        all_axes[0].set(ylabel="proportional set size, MB", ylim=(0, None))
        figure.legend(
            *all_axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
