"""``feat-fed sweep``: variations of a study, one simulation after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.simulate import RayAddress
from feat_fed.cli.study import Runs


def sweep(
    sweep_file: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="YAML file: study, simulation, variations.")
    ],
    ray_address: RayAddress = None,
    runs: Runs = Path("runs"),
) -> None:
    """Simulate variations of a study one after the other, and put them into one table.

    Each is a run of its own, RUNS/SWEEP/VARIATION. Stopped or killed, the same command goes on:
    what is complete is not done again. One that fails is told, and the others are done; the exit
    status is 1 then.
    """
    from feat_fed.cli.sweep_run import run_sweep

    run_sweep(sweep_file, runs, ray_address)
