"""``feat-fed check``: whether this site can take part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from feat_fed.cli.console import console, output

if TYPE_CHECKING:
    from feat_fed_client.check import CheckReport, CheckResult
    from feat_fed_client.check.result import Status, StudyFrom

_COLOURS: dict[Status, str] = {"green": "green", "amber": "yellow", "red": "bold red"}


def check(
    site_config: Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's YAML file.")],
    study: Annotated[
        str | None,
        typer.Option(
            help="A YAML file or the name of a built-in study; unset: that of the last round."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for machines, without any path.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the server alone.")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out what takes more than seconds: no step is tried."),
    ] = False,
) -> None:
    """Find out, before anything starts, whether this site can take part in a study.

    Reads the site's file, store and last scan, takes some steps of the study's training and
    measures the way to the server. Nothing is changed. The exit status is 1 if anything is red.
    """
    from feat_fed.config import load_site, load_study
    from feat_fed_client.check import Subject, run_checks
    from feat_fed_client.known_study import recall_study

    os.umask(0o077)  # all that a site keeps is its own
    site = load_site(site_config)
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
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        output.print(_table(report))
        output.print(_verdict(report))
    raise typer.Exit(1 if report.status == "red" else 0)


def _table(report: CheckReport) -> Table:
    study = f"study {report.study} (of the {report.study_from})" if report.study else "no study"
    table = Table(title=f"{report.site}, {study}", title_justify="left", show_lines=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found, and what to do")
    for each in report.results:
        table.add_row(Text(each.status, style=_COLOURS[each.status]), each.title, _words(each))
    return table


def _words(result: CheckResult) -> Text:
    words = Text(result.found)
    if result.mend and result.status != "green":
        words.append(f"\n-> {result.mend}", style="italic")
    return words


def _verdict(report: CheckReport) -> Text:
    statuses = [each.status for each in report.results]
    told = {
        "red": "this site cannot take part yet",
        "amber": "this site can take part; look at what is amber",
        "green": "this site can take part",
    }[report.status]
    counts = ", ".join(f"{statuses.count(each)} {each}" for each in _COLOURS)
    return Text(f"{counts}: {told}", style=_COLOURS[report.status])
