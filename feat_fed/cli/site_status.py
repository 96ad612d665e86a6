"""Where a site stands: what `feat-fed site status` tells, for people and for machines."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import typer
from pydantic import BaseModel

from feat_fed.audit import Head
from feat_fed.audit.log import FOLDER, read_head
from feat_fed.cli.console import output
from feat_fed.cli.site_screen import live_line, outcome_line
from feat_fed.config import SiteConfig
from feat_fed.metrics import Metric
from feat_fed.protocol import verdict_text
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.report.units import format_bytes, format_count, format_duration
from feat_fed_client.events import events_folder
from feat_fed_client.history import PastRound, past_rounds
from feat_fed_client.hours import clock, local_now
from feat_fed_client.limits import SiteLimits
from feat_fed_client.pause import pause_of
from feat_fed_client.running import client_is_running
from feat_fed_client.traffic import moved_bytes
from feat_fed_client.trust import trusted_bundles

_ROUNDS = 5
_STALE_SEC = 60.0


class Held(BaseModel):
    """What lies below one name in the store."""

    name: str
    num_files: int
    num_bytes: int


class SiteStatus(BaseModel):
    """A site at one moment; times are ISO 8601 with their offset."""

    site: str
    client_running: bool
    paused: bool
    paused_until: str | None
    hours: str
    hours_open: bool
    hours_change_at: str | None
    live: SiteLive | None
    rounds: list[PastRound]
    store: Path
    held: list[Held]
    logs: Path
    events: Path
    server: str | None
    """HOST:PORT of the study's."""
    trusted: list[str]
    """SHA-256 of the bundles that may run."""
    audit_head: Head | None
    """Where the audit log ends."""


def site_status(site: SiteConfig) -> SiteStatus:
    """Find out where a site stands; changes nothing."""
    limits = SiteLimits.of(site)
    now = limits.now()
    pause, change_at = pause_of(site.store, now), limits.hours.change_at(now)
    return SiteStatus(
        site=site.name,
        client_running=client_is_running(site.store),
        paused=pause is not None,
        paused_until=pause.until.isoformat() if pause and pause.until else None,
        hours=str(limits.hours),
        hours_open=limits.hours.contain(now),
        hours_change_at=change_at.isoformat() if change_at else None,
        live=SiteLive.read(site.store / LIVE_FILE),
        rounds=past_rounds(site.store)[-_ROUNDS:],
        store=site.store,
        held=list(_held(site.store)),
        logs=site.store / "logs",
        events=events_folder(site.store),
        server=site.server.address if site.server else None,
        trusted=sorted(trusted_bundles(site)),
        audit_head=read_head(site.store / FOLDER),
    )


def show_site(site: SiteConfig, *, as_json: bool) -> None:
    """Print a site's status for people or for machines."""
    found = site_status(site)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    for line in status_lines(found):
        output.print(line, markup=False, soft_wrap=True)


def status_lines(status: SiteStatus) -> list[str]:
    """Return a status for people."""
    now = local_now()
    lines = [
        f"{status.site}: {'a client is running' if status.client_running else 'no client runs'}",
        f"server: {status.server or 'none'}",
        f"now: {_doing(status)}",
        f"pause: {_pause(status, now)}",
        f"hours: {_hours(status, now)}",
    ]
    lines += ["last rounds:"] if status.rounds else ["last rounds: none yet"]
    for past in status.rounds:
        said = f"; {verdict_text(past.verdict)}" if past.verdict else ""
        lines.append(f"  {_when(past.at)}  {outcome_line(past.report)}{said}")
    lines.append(f"store: {status.store}")
    for held in status.held:
        files = f"{format_count(held.num_files)} file{'' if held.num_files == 1 else 's'}"
        lines.append(f"  {held.name:<16}{format_bytes(held.num_bytes):>10}  {files}")
    lines.append(f"bundles that may run: {len(status.trusted)} (`feat-fed site trust` shows them)")
    if status.audit_head:
        head = status.audit_head
        lines.append(f"audit log: {head.sequence} lines, its head is {head.hash}")
    lines.append(f"logs: {status.logs}")
    lines.append(f"events: {status.events} (tensorboard --logdir {status.events})")
    return lines


def site_metrics(site: SiteConfig) -> list[Metric]:
    """Return what a site does and did as figures for Prometheus; they stay at the site."""
    live = SiteLive.read(site.store / LIVE_FILE)
    running = Metric("feat_fed_client_running", "Whether a client runs with the store.")
    metrics = [running.add(float(client_is_running(site.store)))]

    def gauge(name: str, help_text: str, value: float | None) -> None:
        metrics.append(Metric(f"feat_fed_site_{name}", help_text).add(value))

    if live is not None:
        training = live.phase == "training"
        gauge("training", "Whether the site trains at this moment.", float(training))
        gauge("round", "Of the study, that came last.", live.round)
        gauge("step", "Optimiser steps of the round so far.", live.step if training else 0)
        gauge("steps", "Optimiser steps that the round has.", live.steps if training else 0)
        gauge("step_loss", "Of the last step.", live.loss)
        gauge("clips_per_second", "Of training.", live.clips_per_sec)
        gauge("memory_bytes", "Most that training has taken.", live.memory_bytes)
    gauge("moved_bytes", "Of weights, in and out, in the last rounds.", moved_bytes(site.store))
    past = past_rounds(site.store)
    outcomes = Metric("feat_fed_site_rounds", "Of the last 200, by their outcome.")
    for outcome in ("ok", "declined", "failed"):
        count = sum(each.report.outcome == outcome for each in past)
        outcomes.add(count, outcome=outcome)
    metrics.append(outcomes)
    if past:
        last = past[-1].report
        loss = Metric("feat_fed_site_loss", "Of the last round.")
        metrics.append(
            loss.add(last.train_loss, split="train").add(last.heldout_loss, split="heldout")
        )
        gauge("last_round_training_seconds", "Of training.", last.train_sec)
    return metrics


def _doing(status: SiteStatus) -> str:
    live = status.live
    if live is None:
        return "no round has come yet"
    age_sec = time.time() - live.at
    if live.phase == "idle":
        return f"idle since {_when(live.at)}, after round {live.round}"
    if age_sec <= _STALE_SEC:
        return live_line(live)
    ago = f"{format_duration(age_sec)} ago"
    if status.client_running:
        return f"{live_line(live)} ({ago})"
    return f"nothing; what ran last ended {ago} in {live_line(live)}"


def _pause(status: SiteStatus, now: datetime) -> str:
    if not status.paused:
        return "none"
    if status.paused_until is None:
        return "until `feat-fed site resume`"
    return f"until {clock(datetime.fromisoformat(status.paused_until), now)}"


def _hours(status: SiteStatus, now: datetime) -> str:
    if status.hours_change_at is None:
        return status.hours
    change = clock(datetime.fromisoformat(status.hours_change_at), now)
    return f"{status.hours}; {'open' if status.hours_open else 'closed'} until {change}"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _held(store: Path) -> Iterator[Held]:
    for path in sorted(store.iterdir()) if store.is_dir() else ():
        sizes = list(_sizes(path))
        yield Held(name=path.name, num_files=len(sizes), num_bytes=sum(sizes))


def _sizes(path: Path) -> Iterator[int]:
    """Return the sizes of a file or of all files below a folder; some may vanish meanwhile."""
    files = [path] if not path.is_dir() else []
    for folder, _, names in os.walk(path):
        files += [Path(folder, name) for name in names]
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            yield file.lstat().st_size
