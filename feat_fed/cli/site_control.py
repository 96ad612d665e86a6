"""``feat-fed site``: a hospital's hand on its own training, while a client runs or not."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from feat_fed.cli.console import output, say
from feat_fed.cli.data import SiteFile
from feat_fed.config import SiteConfig, load_site
from feat_fed.errors import ConfigError

app = typer.Typer(help="Pause, resume and watch a site; what may run there.", no_args_is_help=True)

_UNITS_SEC = {"m": 60, "h": 3600, "d": 86_400}


@app.command()
def pause(
    site_config: SiteFile,
    until: Annotated[
        str | None, typer.Option(help="When it ends by itself: 18:00, today or tomorrow.")
    ] = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="How long it lasts: 30m, 2h, 1.5d.")
    ] = None,
) -> None:
    """Stop training until it is resumed, or for a time.

    A round that is under way ends at its next step and is sent with the steps that it has;
    others are declined, which is no failure.
    """
    from feat_fed_client.hours import clock, local_now
    from feat_fed_client.pause import PAUSE_FILE, begin_pause

    site, now = _site(site_config), local_now()
    if until is not None and for_ is not None:
        raise ConfigError("--until and --for: one of the two")
    end = next_time(until, now) if until else now + duration(for_) if for_ else None
    begin_pause(site.store, end)
    when = f"until {clock(end, now)}" if end else "until `feat-fed site resume`"
    say(f"{site.name} is paused {when} ({site.store / PAUSE_FILE})")


@app.command()
def resume(site_config: SiteFile) -> None:
    """End a pause; the next round that comes is trained."""
    from feat_fed_client.limits import SiteLimits
    from feat_fed_client.pause import end_pause

    site = _site(site_config)
    end_pause(site.store)
    closed = SiteLimits.of(site).closed()
    say(f"{site.name} is resumed" + (f", and still {closed}" if closed else ""))


@app.command()
def status(
    site_config: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for machines.")] = False,
) -> None:
    """Say what the site does, whether it may train now, and what came of its last rounds.

    The same as `feat-fed status SITE.yaml`.
    """
    from feat_fed.cli.site_status import show_site

    show_site(load_site(site_config), as_json=as_json)


@app.command()
def trust(
    site_config: SiteFile,
    digest: Annotated[
        str | None,
        typer.Argument(metavar="[HASH]", help="SHA-256 of a bundle to approve."),
    ] = None,
    withdraw: Annotated[
        str | None, typer.Option(metavar="HASH", help="Let this bundle run no more.")
    ] = None,
) -> None:
    """Show which application bundles may run here, approve one or withdraw that.

    It counts from the next message on; the site's file stays as it is.
    """
    from feat_fed.cli.site_trust import change_trust, trust_lines

    site = _site(site_config)
    if digest is not None or withdraw is not None:
        say(change_trust(site, approved=digest, withdrawn=withdraw))
        return
    for line in trust_lines(site):
        output.print(line, markup=False, soft_wrap=True)


def next_time(text: str, now: dt.datetime) -> dt.datetime:
    """Return when the wall clock next shows ``HH:MM``.

    Raises
    ------
    ConfigError
        If it is no time of the day.
    """
    try:
        time = dt.datetime.strptime(text, "%H:%M").time()
    except ValueError:
        raise ConfigError(f"--until {text!r} is no time of the day; write 18:00") from None
    days = (now.date(), now.date() + dt.timedelta(days=1))
    times = (dt.datetime.combine(day, time).astimezone() for day in days)
    return next(each for each in times if each > now)


def duration(text: str) -> dt.timedelta:
    """Return how long ``30m``, ``2h`` or ``1.5d`` is.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)([mhd])", text)
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--for {text!r} is no duration; write 30m, 2h or 1.5d")
    return dt.timedelta(seconds=float(match[1]) * _UNITS_SEC[match[2]])


def _site(site_config: Path) -> SiteConfig:
    os.umask(0o077)  # all that a site keeps is its own
    return load_site(site_config)
