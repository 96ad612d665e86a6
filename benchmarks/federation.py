"""What a round costs without its training: ``python benchmarks/federation.py``.

Our server and clients, Flower's own ``FedAvg.start`` and NVFlare move the same arrays through
whole rounds on this machine, each as a user starts it, with TLS and authenticated sites. Every
site changes every number in each round, for Flower does not send again what has not changed.
Nobody trains. A round is timed from the end of the one before to its own; the first one, in
which sites are still coming, is not counted.

Each row is one federation with one payload, number of sites and form of the weights on the wire:
seconds of every round, bytes down and up in all the measured rounds (of the sites' TCP
connections, by ``ss``), peak memory of the processes (Linux).
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from federations.contender import PAYLOADS, Contender, Setting
from federations.flower import FlowerStock
from federations.nvflare_poc import NVFlarePoc
from federations.ours import FORMS, FeatFed
from federations.watch import Watch, wait_for
from timing import header, parse, parser, write_report


def main() -> None:
    """Run what was asked for, a row after the other; the report is written after each."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends what was started
    try:
        _run(_options())
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(chosen: argparse.Namespace) -> None:
    contenders = _contenders(chosen)
    report: dict[str, Any] = {**header("cpu"), "cpus": os.cpu_count(), "results": []}
    for payload in chosen.payloads:
        for sites in chosen.sites:
            for contender, form in contenders:
                setting = Setting(PAYLOADS[payload], sites, 1 + chosen.runs, form)
                report["results"].append(_row(contender, setting, chosen))
                write_report(chosen.out, report)
    _print_table(report["results"])


def _options() -> argparse.Namespace:
    options = parser(__doc__, runs=3)
    options.add_argument("--payloads", nargs="+", choices=PAYLOADS, default=["small", "64MB"])
    options.add_argument("--sites", nargs="+", type=int, default=[2])
    options.add_argument(
        "--forms", nargs="+", choices=FORMS, default=["fp32"], help="of ours, on the wire"
    )
    options.add_argument(
        "--only", nargs="+", choices=["flower", "feat-fed", "nvflare"], help="all if unset"
    )
    options.add_argument(
        "--peer-venv", type=Path, help="virtual environment with nvflare==2.9.0, for its rows"
    )
    options.add_argument("--timeout-sec", type=float, default=1200, help="of a round")
    options.add_argument("--keep", type=Path, help="folder to leave all files and logs in")
    options.add_argument("--quick", action="store_true", help="small, one round")
    chosen = parse(options)
    if chosen.quick:
        chosen.payloads, chosen.sites, chosen.runs = ["small"], [2], 1
    return chosen


def _contenders(chosen: argparse.Namespace) -> list[tuple[Contender, str]]:
    found: list[tuple[Contender, str]] = [(FlowerStock(), "fp32")]
    found += [(FeatFed(), form) for form in chosen.forms]
    found += [(NVFlarePoc(chosen.peer_venv), "fp32")]
    return [each for each in found if not chosen.only or each[0].name in chosen.only]


def _row(contender: Contender, setting: Setting, chosen: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = {
        "federation": contender.name,
        "payload": setting.payload.name,
        "payload_bytes": setting.payload.num_bytes,
        "tensors": len(setting.payload.schema),
        "sites": setting.sites,
        "form": setting.form,
    }
    if reason := contender.missing():
        return _told({**row, "failed": reason})
    folder = Path(tempfile.mkdtemp(prefix=f"{contender.name}-", dir=chosen.keep))
    try:
        return _told({**row, **_measured(contender, setting, folder, chosen.timeout_sec)})
    except (RuntimeError, TimeoutError) as error:
        chosen.keep = folder  # the logs say more
        return _told({**row, "failed": str(error)})
    finally:
        if chosen.keep is None:
            shutil.rmtree(folder)


def _measured(
    contender: Contender, setting: Setting, folder: Path, timeout_sec: float
) -> dict[str, Any]:
    before = os.getloadavg()[0]
    with (
        contender.running(folder, setting) as running,
        Watch(running).looking() as watch,
    ):
        ends = [wait_for(running.rounds_done, 1, running, timeout_sec)]
        watch.begin()
        cpu_sec = running.cpu_sec()
        for number in range(2, setting.rounds + 1):
            ends.append(wait_for(running.rounds_done, number, running, timeout_sec))
        cpu_sec = running.cpu_sec() - cpu_sec
        seen = watch.result()
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)]
    ideal = setting.payload.num_bytes * setting.sites * len(seconds)
    return {
        "round_sec": seconds,
        "median_sec": statistics.median(seconds),
        "cpu_sec": cpu_sec / len(seconds),
        "down_over_ideal": seen.down / ideal,
        "up_over_ideal": seen.up / ideal,
        "peak_rss_mb": {role: held / 1e6 for role, held in sorted(seen.peak_rss.items())},
        "peak_pss_mb": {role: held / 1e6 for role, held in sorted(seen.peak_pss.items())},
        "load_before": before,
        "load_after": os.getloadavg()[0],
    }


def _told(row: dict[str, Any]) -> dict[str, Any]:
    what = f"{row['payload']}, {row['sites']} sites, {row['federation']}, {row['form']}"
    told = row.get("failed") or f"{row['median_sec']:.2f} s, of processors {row['cpu_sec']:.2f} s"
    print(time.strftime("%H:%M:%S"), what, told, flush=True)
    return row


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print Markdown; a ratio is to Flower's row of the same payload and number of sites."""
    flower = {
        (row["payload"], row["sites"]): row
        for row in rows
        if row["federation"] == "flower" and "failed" not in row
    }
    print("\n| payload | sites | federation | s a round | / Flower | down, up / ideal | peak MB: ")
    for row in rows:
        if "failed" in row:
            continue
        peer = flower.get((row["payload"], row["sites"]))
        ratio = f"{row['median_sec'] / peer['median_sec']:.2f}" if peer else "-"
        memory = ", ".join(f"{role} {held:.0f}" for role, held in row["peak_pss_mb"].items())
        print(
            f"| {row['payload']} | {row['sites']} | {row['federation']} {row['form']} "
            f"| {row['median_sec']:.2f} | {ratio} "
            f"| {row['down_over_ideal']:.3f}, {row['up_over_ideal']:.3f} | {memory} |"
        )


if __name__ == "__main__":
    main()
