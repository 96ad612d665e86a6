"""``feat-fed study``: the coordinator's hand on who takes part, while a study runs or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.completion import run_folders
from feat_fed.cli.console import output, say
from feat_fed.privacy.claims import told
from feat_fed.report.run_store import RunStore, lock_run

app = typer.Typer(help="See a study's sites; keep one out or let it in.", no_args_is_help=True)

Run = Annotated[
    Path, typer.Option(help="The run's folder, such as runs/heart.", autocompletion=run_folders)
]
Site = Annotated[str, typer.Argument(help="The site's name.")]

_LOCK_WAIT_SEC = 5.0


@app.command()
def sites(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list for machines.")] = False,
) -> None:
    """List a study's sites: who takes part, who is kept out and why, and their past rounds."""
    from feat_fed.cli.study_lines import site_lines, study_sites

    store = RunStore(run)
    found = study_sites(store)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found], indent=1))
        return
    for line in told(store.study):
        output.print(f"privacy: {line}", markup=False, soft_wrap=True)
    for line in site_lines(found):
        output.print(line, markup=False, soft_wrap=True)


@app.command()
def exclude(site: Site, run: Run) -> None:
    """Keep a site out of the coming rounds, until it is readmitted.

    An update of the site that is there already stays in its round.
    """
    from feat_fed.cli.study_lines import require_known
    from feat_fed_server.run_audit import RunAudit
    from feat_fed_server.site_orders import SiteOrders

    store = RunStore(run)
    with lock_run(run, "sites", wait_sec=_LOCK_WAIT_SEC):
        require_known(store, site)
        SiteOrders.read(run).excluding(site).write(run)
        RunAudit(store).site("site-excluded", site)
    say(f"{site} is asked no more, until `feat-fed study readmit {site} --run {run}`")


@app.command()
def readmit(site: Site, run: Run) -> None:
    """Let a site in again that was excluded, or quarantined for what it sent."""
    from feat_fed.cli.study_lines import require_known
    from feat_fed_server.run_audit import RunAudit
    from feat_fed_server.site_orders import SiteOrders
    from feat_fed_server.standing import standing_of

    store = RunStore(run)
    with lock_run(run, "sites", wait_sec=_LOCK_WAIT_SEC):
        require_known(store, site)
        before = SiteOrders.read(run)
        standing = standing_of(store)
        was_out = site in before.excluded or site in standing.with_orders(before).quarantined()
        quarantined_in = standing.of(site).quarantined_in
        if was_out:
            before.readmitting(site, quarantined_in=quarantined_in).write(run)
            RunAudit(store).site("site-readmitted", site)
    say(f"{site} is asked again" if was_out else f"{site} was not kept out")
