"""``feat-fed client``: a hospital's side of a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.console import output, say
from feat_fed.cli.data import files_bar, tell_counts
from feat_fed.cli.progress import plain_lines


def client(
    site_config: Annotated[Path, typer.Option(help="The site's YAML file.")] = Path("site.yaml"),
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, print the resolved configuration, stop.")
    ] = False,
) -> None:
    """Take part in a study with this hospital's clips.

    Checks the configuration and the data first, then waits for the server and answers it
    until it is stopped with Ctrl-C. No video leaves this machine.
    """
    from feat_fed.cli.site_screen import SiteScreen
    from feat_fed.cli.site_status import site_metrics
    from feat_fed.config import dump_yaml, load_site
    from feat_fed.data import Manifest, scan
    from feat_fed.metrics import served_metrics
    from feat_fed_client.budget import problems_at_start
    from feat_fed_client.events import events_folder
    from feat_fed_client.supernode import SiteLauncher, check_link

    os.umask(0o077)  # all that a site keeps is its own: keys, latents, logs
    site = load_site(site_config)
    check_link(site)
    if site.compute.device == "cuda" or site.compute.devices != 1:
        from feat_fed.train import resolve_device  # torch: the client itself does without

        resolve_device(site.compute)
    with Manifest(site.store, alone="wait") as manifest, files_bar("looking at files") as bar:
        inventory = scan(site.data, manifest=manifest, progress=bar)
    tell_counts(site.name, inventory)
    inventory.require_clips()
    if dry_run:
        output.print(dump_yaml(site), markup=False, end="")
        return
    for problem in problems_at_start(site):
        say(f"ROUNDS WITH DP-SGD WILL BE DECLINED: {problem} (`feat-fed privacy verify`)")
    with (
        served_metrics(site.metrics_port, lambda: site_metrics(site)) as url,
        SiteScreen(site.store, tell=plain_lines()) as screen,
    ):
        launcher = SiteLauncher(site_config, site, tell=plain_lines(), watch=screen.update)
        say(f"logs: {launcher.logs}")
        say(f"events: {events_folder(site.store)} (tensorboard --logdir shows them)")
        if url:
            say(f"metrics: {url}")
        launcher.run()
