"""``feat-fed check``: whether this site can take part, or this server can start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from feat_fed.cli.completion import studies
from feat_fed.cli.console import console, output
from feat_fed.config import load_study
from feat_fed.config.load import read_yaml
from feat_fed.errors import ConfigError
from feat_fed.findings import CheckResult, Status

if TYPE_CHECKING:
    from feat_fed_client.check.result import StudyFrom

_COLOURS: dict[Status, str] = {"green": "green", "amber": "yellow", "red": "bold red"}


def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The site's YAML file; or the federation's, for the server."
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            help="A YAML file or the name of a built-in study; unset: a site's last round's.",
            autocompletion=studies,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for machines, without any path.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Of a site: leave the server alone.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out what takes more than seconds: no step is tried."),
    ] = False,
    listen: Annotated[
        str | None, typer.Option(help="Of a server: HOST:PORT, as `feat-fed server` will get it.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Of a server: folder that holds the runs; runs if unset.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Of a server: the run; the study's name if unset.")
    ] = None,
) -> None:
    """Find out, before anything starts, whether this site can take part, or this server start.

    For a site: reads its file, store and last scan, takes some steps of the study's training and
    measures the way to the server. For a server: certificates, address, hospitals, study, room on
    the disk and the evaluator's files. Nothing is changed. The exit status is 1 if anything is red.
    """
    os.umask(0o077)  # all that a site keeps is its own
    if _is_federation(file):
        if offline:
            raise ConfigError(f"--offline is of a site, and {file} is a federation: leave it out")
        _check_server(file, study, as_json, quick, listen, (runs or Path("runs"), run))
    if listen or runs or run:
        raise ConfigError(f"--listen, --runs and --run are of a server, and {file} is a site")
    _check_site(file, study, as_json, offline, quick)


def _is_federation(file: Path) -> bool:
    tree = read_yaml(file)
    if "rounds" in tree or "model" in tree:
        raise ConfigError(
            f"{file} is a study: give the site's file or the federation's, and the study by "
            f"--study {file}"
        )
    return "sites" in tree and "data" not in tree


def _check_server(
    file: Path,
    study: str | None,
    as_json: bool,
    quick: bool,
    listen: str | None,
    run: tuple[Path, str | None],
) -> None:
    from feat_fed_server.check import ServerSubject, run_server_checks

    known = load_study(study) if study else None
    subject = ServerSubject(
        federation=file,
        study=known,
        run=run[0] / (run[1] or known.name) if known else None,
        listen=listen,
        quick=quick,
    )
    with console.status("checking") as status:
        report = run_server_checks(subject, tell=lambda title: status.update(f"checking: {title}"))
    title = f"server of {file.name}, study {known.name}" if known else f"server of {file.name}"
    verdicts = {
        "red": "this server cannot start yet",
        "amber": "this server can start; look at what is amber",
        "green": "this server can start",
    }
    _tell(report.results, report.status, title, verdicts, report.model_dump_json(indent=1), as_json)


def _check_site(file: Path, study: str | None, as_json: bool, offline: bool, quick: bool) -> None:
    from feat_fed.config import load_site
    from feat_fed_client.check import Subject, run_checks
    from feat_fed_client.known_study import recall_study

    site = load_site(file)
    known = recall_study(site.store)
    subject = Subject(
        site=site,
        study=load_study(study) if study else known.study if known else None,
        last_versions=known.versions if known else None,
        offline=offline,
        quick=quick,
    )
    source: StudyFrom | None = "option" if study else "last round" if known else None
    with console.status("checking") as status:
        report = run_checks(
            subject, study_from=source, tell=lambda title: status.update(f"checking: {title}")
        )
    of_study = f"study {report.study} (of the {report.study_from})" if report.study else "no study"
    verdicts = {
        "red": "this site cannot take part yet",
        "amber": "this site can take part; look at what is amber",
        "green": "this site can take part",
    }
    title = f"{report.site}, {of_study}"
    _tell(report.results, report.status, title, verdicts, report.model_dump_json(indent=1), as_json)


def _tell(
    results: Sequence[CheckResult],
    status: Status,
    title: str,
    verdicts: dict[str, str],
    json: str,
    as_json: bool,
) -> None:
    """Print a report, and leave with its exit status."""
    if as_json:
        typer.echo(json)
    else:
        output.print(_table(results, title))
        counts = ", ".join(
            f"{sum(each.status == colour for each in results)} {colour}" for colour in _COLOURS
        )
        output.print(Text(f"{counts}: {verdicts[status]}", style=_COLOURS[status]))
    raise typer.Exit(1 if status == "red" else 0)


def _table(results: Sequence[CheckResult], title: str) -> Table:
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found, and what to do")
    for each in results:
        table.add_row(Text(each.status, style=_COLOURS[each.status]), each.title, _words(each))
    return table


def _words(result: CheckResult) -> Text:
    words = Text(result.found)
    if result.mend and result.status != "green":
        words.append(f"\n-> {result.mend}", style="italic")
    return words
