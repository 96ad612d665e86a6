"""``feat-fed simulate``: a study with virtual hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from feat_fed.cli.baseline import Baseline, run_baselines
from feat_fed.cli.runs import run_to_report
from feat_fed.cli.study import Rounds, RunName, Runs, Study, resolve_study
from feat_fed.config import load_simulation
from feat_fed.config.simulation import PartitionKind
from feat_fed.report.run_store import RunStore

RayAddress = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a running Ray cluster; one is started if unset."),
]
Baselines = Annotated[
    list[Baseline] | None,
    typer.Option(
        "--baseline",
        help="When the study is complete, train the same without federating and compare in the "
        "report: all hospitals' clips in one place, or each hospital alone. Can be given twice.",
    ),
]


def simulate(
    scenario: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file: hospitals, data, partition, resources, sites, failures; the other "
            "options win over it."
        ),
    ] = None,
    sites: Annotated[
        int | None, typer.Option(min=2, max=1024, help="Virtual hospitals; 4 if unset.")
    ] = None,
    rounds: Rounds = None,
    study: Study = "demo",
    data: Annotated[
        Path | None, typer.Option(help="Folder of clips; some are generated if unset.")
    ] = None,
    partition: Annotated[
        PartitionKind | None,
        typer.Option(
            help="How patients become hospitals'; unset: a sub-folder of the data is a hospital."
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=0, help="Of dirichlet: near 0, hospitals differ much; 100: little."),
    ] = None,
    by: Annotated[
        Literal["label", "modality"] | None, typer.Option(help="What dirichlet mixes.")
    ] = None,
    gpus_per_site: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a hospital; 0.25: four share one.")
    ] = None,
    ray_address: RayAddress = None,
    baseline: Baselines = None,
    run: RunName = None,
    runs: Runs = Path("runs"),
) -> None:
    """Run a study with virtual hospitals on this machine or a Ray cluster.

    The server's and the sites' code is the one of a real study; only the network is not.
    Stopped or killed, the same command goes on, in its baselines too.
    """
    from feat_fed.cli.ray_cluster import require_cluster
    from feat_fed.cli.simulation import hospitals_of_run, run_simulation

    config = load_simulation(
        scenario,
        hospitals=sites,
        data=data and data.resolve(),
        partition={"kind": partition, "alpha": alpha, "by": by},
        resources={"gpus": gpus_per_site},
    )
    if ray_address is not None:
        require_cluster(ray_address)
    study_config = resolve_study(study, rounds)
    root = runs / (run or f"{study_config.name}-simulated")
    run_to_report(
        root, study_config, lambda store: run_simulation(store, config, ray_address=ray_address)
    )
    if baseline:
        store = RunStore(root)
        run_baselines(store, hospitals_of_run(store, config), baseline)
