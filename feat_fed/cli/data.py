"""``feat-fed data``: a hospital's clips, before and beside any study.

What is printed or written names no file, folder or patient, unless the engineer asks for paths
on the own screen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from feat_fed.cli.console import console, output, say
from feat_fed.config import SiteConfig, load_site, load_study
from feat_fed.errors import ConfigError

if TYPE_CHECKING:
    from feat_fed.data import Exclusion, Inventory, Manifest
    from feat_fed.data.inventory.decide import Decision
    from feat_fed.data.inventory.entries import Progress as TellProgress

app = typer.Typer(help="See, approve, encode and erase a hospital's clips.", no_args_is_help=True)

SiteFile = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's YAML file.")]
ClipIds = Annotated[
    list[str] | None, typer.Argument(metavar="[CLIP_ID...]", help="Or how they begin.")
]

_ID_CHARS = 12


@app.command()
def scan(
    site_config: SiteFile,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="Read everything again, also what is unchanged.")
    ] = False,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Say which files these are, on this screen.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object for machines, without any path.")
    ] = False,
) -> None:
    """Find out which files can be trained on, and why others cannot.

    Only new and changed files are read; stopped or killed, the same command goes on where it
    was. No file is moved or changed.
    """
    from feat_fed.data import Manifest
    from feat_fed.data import scan as scan_site

    if as_json and show_paths:
        raise ConfigError("--json never holds paths: leave --show-paths out")
    site = _site(site_config)
    with Manifest(site.store, alone="refuse") as manifest:
        with files_bar("looking at files") as bar:
            inventory = scan_site(site.data, manifest=manifest, progress=bar, rescan=rescan)
        _finish_erasing(site, manifest)
        if as_json:
            rows = [dataclasses.asdict(each) for each in manifest.records().values()]
            hidden = ("stamp", "looked_by", "unreadable", "attempts")
            clips = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
            counts = {"skipped": inventory.skipped, "refused": inventory.refused}
            typer.echo(json.dumps({"site": site.name, **counts, "clips": clips}, indent=1))
            return
    tell_counts(site.name, inventory)
    _tell_clips(inventory, show_paths=show_paths)


@app.command()
def report(
    site_config: SiteFile,
    study: Annotated[
        str | None,
        typer.Option(help="Say also who is held out in this study: a YAML file or its name."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; by default data.html in the site's store.")
    ] = None,
    show_paths: Annotated[
        bool, typer.Option("--show-paths", help="Name the files on the page.")
    ] = False,
) -> None:
    """Write a page of what there is, what is left out and why, and what a person must look at.

    The page shows pictures of patients: it is the hospital's own. The counts beside it, as
    JSON, hold numbers and fixed phrases only.
    """
    from feat_fed.cli.data_report import default_page, site_facts
    from feat_fed.data import Manifest
    from feat_fed.data import scan as scan_site
    from feat_fed.data.inventory.decide import note_paged
    from feat_fed.data.inventory.split import sides_of
    from feat_fed.report.data_page import write_data_page

    site, config = _site(site_config), load_study(study) if study else None
    page = out or default_page(site)
    with Manifest(site.store, alone="refuse") as manifest:
        with files_bar("looking at files") as bar:
            inventory = scan_site(site.data, manifest=manifest, progress=bar)
        _finish_erasing(site, manifest)
        sides = sides_of(inventory.clips, config.clips, manifest) if config else {}
        facts = site_facts(site, manifest.records(), inventory, sides=sides, show_paths=show_paths)
        try:
            paged = write_data_page(facts, page)
        except OSError as error:
            raise ConfigError(
                f"{page} cannot be written: {error.strerror}; name another --out"
            ) from None
        note_paged(manifest, paged, site.data.rules)
    tell_counts(site.name, inventory)
    say(f"report: {page}")


@app.command()
def prepare(
    site_config: SiteFile,
    study: Annotated[str, typer.Option(help="A YAML file or the name of a built-in study.")],
) -> None:
    """Encode the clips for a study now, so that its first round need not."""
    from feat_fed.codec import build_codec, prepare_at_site
    from feat_fed.data import Manifest
    from feat_fed.data import scan as scan_site
    from feat_fed.train import resolve_device

    site, config = _site(site_config), load_study(study)
    device = resolve_device(site.compute)
    codec = build_codec(config.codec, weights=site.codec_weights, device=device)
    with Manifest(site.store, alone="refuse") as manifest:
        with files_bar("looking at files") as bar:
            inventory = scan_site(site.data, manifest=manifest, clips=config.clips, progress=bar)
        _finish_erasing(site, manifest)
        tell_counts(site.name, inventory)
        inventory.require_clips()
    with files_bar("encoding clips") as bar:
        made = prepare_at_site(
            site,
            inventory.clips,
            clips=config.clips,
            codec=codec,
            device=device,
            progress=bar,
        )
    say(f"{len(made.clips)} clips are encoded ({made.num_bytes / 1e6:.1f} MB)")
    if made.stats:
        say(
            f"rounding to {site.latents.dtype} costs {made.stats.rms_loss:.1e} of the latents' "
            f"standard deviation, {made.stats.max_loss:.1e} at most"
        )
    for reason, count in Counter(each.reason for each in made.excluded).most_common():
        say(f"  {count} could not be: {reason}")


@app.command()
def approve(
    site_config: SiteFile,
    clip_ids: ClipIds = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every clip that the last page of `data report` showed.")
    ] = False,
) -> None:
    """Let clips in that a person has looked at."""
    if bool(clip_ids) == everything:
        raise ConfigError("name the clips to approve, or say --all, not both")
    _decide(site_config, clip_ids, "approved")


@app.command()
def reject(
    site_config: SiteFile,
    clip_ids: Annotated[list[str], typer.Argument(metavar="CLIP_ID...", help="Or how they begin.")],
) -> None:
    """Leave clips out that a person has looked at; `approve` takes that back."""
    _decide(site_config, clip_ids, "rejected")


@app.command()
def erase(
    site_config: SiteFile,
    patient: Annotated[
        str,
        typer.Option(
            prompt="Patient",
            help="As in the files or the folder's name. Unset: it is asked for, which keeps it "
            "out of the shell's history.",
        ),
    ],
    again: Annotated[
        bool, typer.Option("--allow-again", help="Take this patient off the list of the erased.")
    ] = False,
) -> None:
    """Remove every trace of a patient from the site's store, and never read the files again."""
    from feat_fed.cli.data_report import drop_page
    from feat_fed.codec import LatentStore
    from feat_fed.data import Manifest
    from feat_fed.data.inventory.erase import allow_again, erase_patient, find_patient
    from feat_fed_client.round_files import forget_rounds

    site = _site(site_config)
    with Manifest(site.store, alone="refuse") as manifest:
        if again:
            listed = allow_again(manifest, patient)
            say("the patient's files are read again" if listed else "this patient was not erased")
            return
        traces = find_patient(manifest, patient)
        latents = LatentStore(site.store / "latents", site.latents).erase(traces.sha256s)
        sheets = erase_patient(manifest, patient)
        drop_page(site)
        learnt = forget_rounds(site.store)
    if not traces.sha256s and not traces.clip_ids:
        say("nothing here was of this patient: see that the id is spelled as in the files")
    say(
        f"removed {len(traces.clip_ids)} clips from the manifest, {sheets} contact sheets, "
        f"{latents} latents, and the patient's approvals and side of the split"
    )
    if traces.shared:
        say(
            f"{traces.shared} clips under other patients show the same: they stay, and from the "
            "next scan on are not used until a person has approved them; see `data report`"
        )
    if learnt:
        say(
            f"removed {learnt} files that rounds left here: checkpoints, updates that were not "
            "acknowledged and optimiser states may have been learnt from the patient, too"
        )
    say("kept: a keyed hash of the patient and the files, so that they are not read again")
    say(
        "not removed: the files themselves, which feat-fed never touches; models that were "
        "trained with them, here or elsewhere, a round that is training now among them; copies "
        "of this store, such as backups; pages that `data report --out` wrote elsewhere"
    )


@contextlib.contextmanager
def files_bar(what: str) -> Iterator[TellProgress]:
    """Show a bar while a scan or an encoding goes on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def tell_counts(name: str, inventory: Inventory) -> None:
    """Print how many clips there are of which verdict, and why."""
    patients = len({entry.patient for entry in inventory.clips})
    say(
        f"{name}: {len(inventory.clips)} usable clips of {patients} patients; "
        f"{inventory.looked} files were read anew"
    )
    for verdict, clips in _unused(inventory):
        for reason, count in Counter(each.reason for each in clips).most_common():
            say(f"  {count} {verdict}: {reason}")
    if inventory.unmatched:
        say(
            f"  data.patient_pattern does not match {inventory.unmatched} clips that name no "
            "patient themselves: their first folder, or the file alone, counts as the patient"
        )
    if inventory.refused:
        say(f"  {inventory.refused} files of patients who were erased are not read")


def _tell_clips(inventory: Inventory, *, show_paths: bool) -> None:
    """Print which clips are not used, on lines that are not cut."""
    for verdict, clips in _unused(inventory):
        for each in clips:
            path = f"  {each.path}" if show_paths else ""
            line = f"{each.clip_id[:_ID_CHARS]}  {verdict:<10}  {each.reason}{path}"
            output.print(line, markup=False, soft_wrap=True)


def _unused(inventory: Inventory) -> tuple[tuple[str, tuple[Exclusion, ...]], ...]:
    return (("to approve", inventory.waiting), ("left out", inventory.excluded))


def _decide(site_config: Path, clip_ids: list[str] | None, decision: Decision) -> None:
    from feat_fed.data import Manifest
    from feat_fed.data.inventory.decide import count_waiting, decide

    site = _site(site_config)
    with Manifest(site.store, alone=None) as manifest:
        count = decide(manifest, tuple(clip_ids or ()), decision, site.data.rules)
        waiting = count_waiting(manifest)
    say(f"{count} clips {decision}; {waiting} await approval")


def _finish_erasing(site: SiteConfig, manifest: Manifest) -> None:
    """Remove latents of clips that this scan found to be of somebody who was erased."""
    from feat_fed.data.inventory.erase import left_behind

    if left_behind(manifest):
        from feat_fed.codec import finish_erasing  # torch, which a scan does without

        finish_erasing(site, manifest)


def _site(site_config: Path) -> SiteConfig:
    os.umask(0o077)  # all that a site keeps is its own
    return load_site(site_config)
