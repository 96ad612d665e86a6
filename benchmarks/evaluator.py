"""What an evaluator beside a study costs its rounds: ``python benchmarks/evaluator.py``.

The demonstration's study (``feat-fed demo``) is run on this machine with its evaluator and without,
turn by turn. All processes share the machine, the evaluator at niceness 19 with one thread; it has
more to do than there is time, so that it computes from the first round to the last, and it is
stopped with the study. A round's seconds are those of the run's own records. The first round, in
which latents are encoded and processes start, is not counted.

How far two rounds differ anyhow is told by those without an evaluator: the largest difference of
one of them from their median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from timing import header, parse, parser, write_report

from feat_fed.config import StudyConfig, load_study
from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.report import RunStore
from feat_fed.report.evaluation_folder import EvaluationFolder

_QUICK = {
    "model": {"in_channels": 6, "hidden_size": 32, "num_trios": 1, "num_heads": 2},
    "clips": {"frames": 4, "size_px": 32},
    "training": {"local_steps": 10, "batch_size": 2},
}


def main() -> None:
    """Run the study in turns; the report is written after each."""
    chosen = _options()
    report: dict[str, Any] = {**header("cpu"), "cpus": os.cpu_count(), "results": []}
    with tempfile.TemporaryDirectory(prefix="evaluator-", dir=chosen.folder) as name:
        folder = Path(name)
        write_demo_hospitals(folder / "real", hospitals=2, seed=1_000)
        for turn in range(chosen.runs):
            # Which of the two goes first changes, so that neither has the warmer machine.
            for on in (bool(turn % 2), not turn % 2):
                row = _row(folder, chosen, turn=turn, on=on)
                report["results"].append(row)
                report.update(_compared(report["results"]))
                write_report(chosen.out, report)
    for key in ("on_over_off", "ratio_of_turns", "noise_of_off"):
        print(f"{key}: {report.get(key)}")


def _options() -> argparse.Namespace:
    options = parser(__doc__, runs=3)
    options.add_argument("--rounds", type=int, default=4, help="the first is not counted")
    options.add_argument("--local-steps", type=int, default=100, help="of a round at each site")
    options.add_argument("--num-clips", type=int, default=512, help="that a round is measured by")
    options.add_argument("--folder", type=Path, help="for what is passing, instead of the system's")
    options.add_argument("--quick", action="store_true", help="small, one turn of two rounds")
    chosen = parse(options)
    if chosen.quick:
        chosen.runs, chosen.rounds, chosen.num_clips = 1, 2, 8
    return chosen


def _study(folder: Path, chosen: argparse.Namespace, *, on: bool) -> StudyConfig:
    tree = load_study("demo").model_dump(mode="json")
    tree["rounds"] = chosen.rounds
    tree["training"]["local_steps"] = chosen.local_steps
    for section, values in _QUICK.items() if chosen.quick else ():
        tree[section] |= values
    if on:
        tree["evaluation"] = {
            "folder": str(folder / "real"),
            "even_trained_on": True,  # patients of the demonstration have the same names
            "num_clips": chosen.num_clips,
            "finish_minutes": 0,
        }
    return StudyConfig.model_validate(tree)


def _row(folder: Path, chosen: argparse.Namespace, *, turn: int, on: bool) -> dict[str, Any]:
    study, name = folder / "study.yaml", f"{turn}-{'on' if on else 'off'}"
    tree = _study(folder, chosen, on=on).model_dump(mode="json")
    study.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "feat_fed.cli", "demo", "--study", str(study)]
    load = os.getloadavg()[0]
    with (folder / f"{name}.log").open("wb") as log:
        demo = subprocess.Popen(
            [*command, "--runs", str(folder), "--run", name], stdout=log, stderr=log
        )
        cpu_sec = _evaluator_cpu_sec(demo)
    if demo.returncode:
        raise SystemExit((folder / f"{name}.log").read_text(errors="replace"))
    store = RunStore(folder / name)
    seconds = [each.seconds for each in store.rounds()[1:]]
    done = len(EvaluationFolder.of_run(store.root).evaluations())
    row = {
        "turn": turn,
        "evaluator": on,
        "round_sec": seconds,
        "median_sec": statistics.median(seconds),
        "evaluator_cpu_sec": cpu_sec,
        "rounds_measured": done,
        "load_before": load,
        "load_after": os.getloadavg()[0],
    }
    print(time.strftime("%H:%M:%S"), row, flush=True)
    return row


def _evaluator_cpu_sec(demo: subprocess.Popen[bytes]) -> float:
    """Wait for the demonstration's end; return the processor time of its evaluator."""
    spent, evaluator = 0.0, None
    while demo.poll() is None:
        time.sleep(1.0)
        try:
            if evaluator is None:
                family = psutil.Process(demo.pid).children(recursive=True)
                evaluator = next(e for e in family if "feat_fed.evaluator" in e.cmdline())
            times = evaluator.cpu_times()
            spent = times.user + times.system
        except (psutil.Error, StopIteration):
            continue
    return spent


def _compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare what is there of whole turns."""
    by_turn: dict[int, dict[bool, float]] = {}
    for row in rows:
        by_turn.setdefault(row["turn"], {})[row["evaluator"]] = row["median_sec"]
    ratios = [both[True] / both[False] for both in by_turn.values() if len(both) == 2]
    off = [sec for row in rows if not row["evaluator"] for sec in row["round_sec"]]
    if not ratios:
        return {}
    middle = statistics.median(off)
    return {
        "ratio_of_turns": ratios,
        "on_over_off": statistics.median(ratios),
        "noise_of_off": max(abs(sec / middle - 1) for sec in off),
    }


if __name__ == "__main__":
    main()
