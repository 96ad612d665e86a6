"""``feat-fed status``: where a study stands, at its coordinator or at a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.completion import run_folders
from feat_fed.cli.console import output
from feat_fed.config import load_site
from feat_fed.errors import ConfigError


def status(
    site_config: Annotated[
        Path | None, typer.Argument(metavar="[SITE.yaml]", help="A site's file, at a hospital.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="A run's folder; the newest below --runs if unset.", autocompletion=run_folders
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
) -> None:
    """Say where a study stands: its rounds and sites, or what a site does; changes nothing."""
    if site_config is not None and run is not None:
        raise ConfigError("a site's file and --run: one of the two")
    if site_config is not None:
        from feat_fed.cli.site_status import show_site

        show_site(load_site(site_config), as_json=as_json)
        return
    from feat_fed.cli.run_status import newest_run, run_lines, run_status
    from feat_fed.cli.study_lines import study_sites
    from feat_fed.report.run_store import RunStore

    store = RunStore(run or newest_run(runs))
    found = run_status(store, {each.site: each.state for each in study_sites(store)})
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    for line in run_lines(found):
        output.print(line, markup=False, soft_wrap=True)
