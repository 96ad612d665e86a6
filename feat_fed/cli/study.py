"""``feat-fed server``: run a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli import completion
from feat_fed.cli.console import output, say
from feat_fed.cli.progress import StudyScreen
from feat_fed.cli.run_status import run_metrics, run_status
from feat_fed.cli.runs import run_to_report
from feat_fed.config import (
    StudyConfig,
    built_in_studies,
    dump_yaml,
    load_federation,
    load_study,
)
from feat_fed.errors import ConfigError
from feat_fed.metrics import served_metrics
from feat_fed.privacy.resolve import resolved
from feat_fed.processes import require_free, split_address
from feat_fed.report.run_store import RunStore

Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds; the study's own number if unset.")]
Study = Annotated[
    str,
    typer.Option(
        help="A YAML file or the name of a built-in study.", autocompletion=completion.studies
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
RunName = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Name of the run; one that exists is gone on with.",
        autocompletion=completion.run_names,
    ),
]


def server(
    rounds: Rounds = None,
    study: Study = "demo",
    federation: Annotated[
        Path, typer.Option(help="The federation's YAML file, made ready by `feat-fed provision`.")
    ] = Path("federation.yaml"),
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen on; the federation's address if unset.")
    ] = None,
    run: RunName = None,
    runs: Runs = Path("runs"),
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Show Prometheus the run's figures on 127.0.0.1."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved study and stop.")] = False,
) -> None:
    """Coordinate a study: wait for its hospitals, train, write the report.

    Stopped or killed, the same command goes on with the round that was under way.
    """
    config = resolve_study(study, rounds)
    if dry_run:
        output.print(dump_yaml(resolved(config)), markup=False, end="")
        return
    from feat_fed_server.certificates import TlsFiles
    from feat_fed_server.launch import StudyLauncher
    from feat_fed_server.membership import Federation

    if study in built_in_studies():
        say(f"the study is the built-in one, {study}; --study study.yaml takes a file")
    invited = load_federation(federation)
    require_enough(config, len(invited.sites))
    members, tls = Federation(federation), TlsFiles(federation.parent / "tls")
    keys = members.members()
    address = listen or invited.address
    require_free(*split_address(address))
    tls.require()
    for line in (*tls.warnings(), *members.warnings()):
        say(f"warning: {line}")
    if absent := [name for name in invited.sites if name not in keys.values()]:
        say(f"not admitted yet: {', '.join(absent)} (see `feat-fed provision status`)")

    def train(store: RunStore) -> None:
        with (
            served_metrics(metrics_port, lambda: run_metrics(run_status(store))) as url,
            StudyScreen(store) as screen,
        ):
            if url:
                say(f"metrics: {url}")
            StudyLauncher(
                store=store,
                listen=address,
                tls=tls,
                sites=keys,
                federation=members,
                tell=say,
                watch=screen.update,
            ).run()

    run_to_report(runs / (run or config.name), config, train)


def resolve_study(source: str, rounds: int | None) -> StudyConfig:
    """Read a study and put the flag's rounds in."""
    return load_study(source, **({} if rounds is None else {"rounds": rounds}))


def require_enough(study: StudyConfig, available: int) -> None:
    """Raise :class:`ConfigError` if the study asks for more sites than there can be."""
    if study.sites.minimum > available:
        raise ConfigError(
            f"the study needs {study.sites.minimum} sites (sites.minimum) and there are "
            f"{available}; add sites or lower sites.minimum"
        )
