"""A sweep's variations, each simulated by a process of its own, and their table."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import yaml

from feat_fed.atomic import write_bytes_atomically
from feat_fed.cli.baseline import baselines_left, heldout_of
from feat_fed.cli.console import console, say
from feat_fed.cli.simulation import SETTINGS, hospitals_of_run
from feat_fed.config import dump_yaml, load_simulation
from feat_fed.config.sweep import SweepConfig, Variation, load_sweep
from feat_fed.errors import FeatFedError, FederationError
from feat_fed.processes import ChildGroup, describe_exit
from feat_fed.report.run_store import RunStore, lock_run
from feat_fed.report.sweep_page import write_sweep
from feat_fed.report.sweep_row import SweepRow, row_of

SIMULATE = (sys.executable, "-m", "feat_fed.cli", "simulate")
"""What runs a variation: a process of its own, with which Ray and all memory end."""
_FILES = "sweep.d"
"""What the runs are made of; a variation's name has no dot, so none is in the way."""
_LOOK_SEC = 0.5


def run_sweep(sweep_file: Path, runs: Path, ray_address: str | None) -> None:
    """Do what is left of a sweep, and write its table and page after each variation.

    Raises
    ------
    ConfigError
        If the file is wrong.
    FederationError
        If a variation is not complete; the others are done before.
    RunError
        If another process is at the sweep.
    """
    config, variations = load_sweep(sweep_file)
    root = runs / config.name
    with lock_run(root, "sweep"):
        (root / _FILES).mkdir(parents=True, exist_ok=True)
        rows: list[SweepRow] = []
        for variation in variations:
            with console.status(f"{variation.name} ({len(rows) + 1} of {len(variations)})"):
                try:
                    row = _one(root, config, variation, ray_address)
                except KeyboardInterrupt:
                    say(f"stopped in {variation.name}; the same command goes on with it")
                    raise
            rows.append(row)
            say(row.line())
            table, page = write_sweep(root, config, rows)
        say(f"table: {table}  report: {page}")
    if failed := [row.name for row in rows if row.state != "complete"]:
        raise FederationError(
            f"{len(failed)} of {len(rows)} variations are not complete: {', '.join(failed)}; their "
            f"logs are in {root / _FILES}, and the same command tries them again"
        )


def _one(
    root: Path, config: SweepConfig, variation: Variation, ray_address: str | None
) -> SweepRow:
    """Run a variation, or what is left of it, and return what came of it."""
    run = root / variation.name
    try:
        if _is_complete(run, config, variation):
            return row_of(run, variation, failure="")
        failure = _simulated(root, config, variation, ray_address)
        if not failure:
            _score(run, variation)
        return row_of(run, variation, failure)
    except FeatFedError as error:
        return SweepRow(variation.name, variation.changes, "failed", str(error))


def _is_complete(run: Path, config: SweepConfig, variation: Variation) -> bool:
    """Whether nothing is left to do; what cannot be told without its command counts as left."""
    settings = run / SETTINGS
    if not (run / "study.yaml").exists() or not settings.exists():
        return False
    store = RunStore.resume(run, variation.study)
    summary = store.summary()
    return (
        load_simulation(settings) == variation.simulation
        and summary.state == "complete"
        and summary.rounds_done >= store.study.rounds
        and store.report.exists()
        and not baselines_left(store, config.baselines)
        and row_of(run, variation, "").heldout_loss is not None
    )


def _simulated(
    root: Path, config: SweepConfig, variation: Variation, ray_address: str | None
) -> str:
    """Run `feat-fed simulate`, which does what is left; return why it failed, or nothing."""
    study, scenario, log = (
        root / _FILES / f"{variation.name}.{kind}"
        for kind in ("study.yaml", "scenario.yaml", "log")
    )
    write_bytes_atomically(study, dump_yaml(variation.study).encode())
    tree = yaml.safe_dump(dict(variation.simulation_tree), sort_keys=False)
    write_bytes_atomically(scenario, tree.encode())
    command = [
        *(*SIMULATE, "--study", str(study), "--scenario", str(scenario)),
        *("--runs", str(root), "--run", variation.name),
        *(word for each in config.baselines for word in ("--baseline", each)),
        *(("--ray-address", ray_address) if ray_address else ()),
    ]
    with ChildGroup(grace_sec=30) as group:
        child = group.start(variation.name, command, log_file=log)
        while (code := child.process.poll()) is None:
            time.sleep(_LOOK_SEC)
            group.rotate_logs()
        _, found, said = child.tail(20).rpartition("error: ")
        last = child.tail(1)
    if code == 0:
        return ""
    return " ".join(said.split()) if found else last or describe_exit(code)


def _score(run: Path, variation: Variation) -> None:
    """Have the hospitals score the last weights where privacy kept them from telling."""
    store = RunStore(run)
    if store.summary().final_heldout_loss is None:
        heldout_of(store, hospitals_of_run(store, variation.simulation))
