"""What a study looks like on a screen while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from feat_fed.cli.console import console, say
from feat_fed.report.live import LIVE_FILE, SiteLive, StudyLive
from feat_fed.report.records import RoundRecord
from feat_fed.report.run_store import RunStore
from feat_fed.report.units import format_bytes, format_duration

_PHASES = {
    "waiting": "waiting for sites",
    "agreeing": "sites agree on masks",
    "training": "sites are training",
    "unmasking": "sites unmask the sum",
    "aggregating": "aggregating",
    "scoring": "scoring the final weights",
    "comparing": "sites look for copies",
    "done": "done",
}

_WATCH_SEC = 0.5


class StudyScreen:
    """Rounds, sites and local steps as bars; each finished round as a line that stays.

    Parameters
    ----------
    store
        The run's folder.
    site_stores
        Where sites on this machine keep their live state, by name; empty on a server
        whose sites are elsewhere, since steps are not sent over the wire.
    """

    def __init__(self, store: RunStore, site_stores: Mapping[str, Path] | None = None) -> None:
        self._store = store
        self._site_stores = dict(site_stores or {})
        self._progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=3600,
        )
        self._rounds = self._progress.add_task("rounds", total=store.study.rounds, note="starting")
        self._sites: dict[str, TaskID] = {}
        self._shown_round: dict[str, int] = {}
        self._told_rounds = len(store.rounds())
        self._told_warnings = len(store.summary().warnings)
        self._told_awaited = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, live: StudyLive | None) -> None:
        """Show the study as it stands."""
        if live is None:
            return
        for record in self._store.rounds()[self._told_rounds :]:
            say(round_line(record, self._store.study.rounds))
            self._told_rounds += 1
        for warning in self._store.summary().warnings[self._told_warnings :]:
            say(f"warning: {warning}")
            self._told_warnings += 1
        awaited = _awaited(live)
        if awaited and awaited != self._told_awaited:
            say(f"waiting for {awaited}" + _until(live.deadline))
        self._told_awaited = awaited
        shares = [self._show_site(site, live) for site in sorted({*live.connected, *live.missing})]
        within = sum(shares) / len(shares) if live.phase == "training" else 0.0
        self._progress.update(
            self._rounds, completed=self._told_rounds + within, note=_PHASES[live.phase]
        )

    def _show_site(self, site: str, live: StudyLive) -> float:
        """Show a site's bar; return the share of the round that it has done."""
        if site not in self._sites:
            total = self._store.study.training.local_steps
            self._sites[site] = self._progress.add_task(site, total=total, note="")
        task, total = self._sites[site], self._store.study.training.local_steps
        if live.round != self._shown_round.get(site):
            self._shown_round[site] = live.round
            self._progress.reset(task)
        local = SiteLive.read(self._site_stores[site] / LIVE_FILE) if self._knows(site) else None
        if local is not None and local.round != live.round:
            local = None  # of the round before
        done = site in live.replied or (local is not None and local.phase == "idle")
        steps = total if done else local.step if local else 0
        self._progress.update(task, completed=steps, note=_site_note(site, live, local))
        return steps / total

    def _knows(self, site: str) -> bool:
        return site in self._site_stores


@contextlib.contextmanager
def followed(screen: StudyScreen, store: RunStore) -> Iterator[None]:
    """Show in the block what the work in it, on this thread, says of its own progress."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_SEC):
            screen.update(StudyLive.read(store.live))
        screen.update(StudyLive.read(store.live))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def round_line(record: RoundRecord, rounds: int) -> str:
    """Return a finished round in one line."""
    good = sum(each.status == "ok" for each in record.sites)
    parts = [
        f"round {record.round}/{rounds}",
        f"{good}/{len(record.sites)} sites",
        f"train loss {_loss(record.train_loss)}",
        f"held-out loss before it {_loss(record.heldout_loss)}",
        f"{record.seconds:.0f} s",
    ]
    notes = [
        f"{each.site} {each.status}: {each.reason}"
        if each.reason
        else f"{each.site}: {each.shortfall}"
        for each in record.sites
        if each.reason or each.shortfall
    ]
    return "  ".join(parts) + ("  (" + "; ".join(notes) + ")" if notes else "")


def speed_parts(live: SiteLive) -> list[str]:
    """Return loss, speed, memory and the time left, as far as they are known."""
    parts = [] if live.loss is None else [f"loss {live.loss:.3f}"]
    if live.clips_per_sec is not None:
        parts.append(f"{live.clips_per_sec:.3g} clips/s")
    if live.memory_bytes is not None:
        parts.append(format_bytes(live.memory_bytes))
    if live.sec_left is not None:
        parts.append(f"{format_duration(live.sec_left)} left")
    return parts


def plain_lines() -> Callable[[str], None]:
    """Return a function that prints lines with the time, for logs."""
    return lambda line: say(f"{time.strftime('%H:%M:%S')}  {line}")


def _awaited(live: StudyLive) -> str:
    """Return whom the study waits for before it can go on."""
    if live.phase != "waiting":
        return ""
    declined = [f"{site} ({reason})" for site, reason in sorted(live.declined.items())]
    kept_out = [f"{site} ({why})" for site, why in sorted(live.kept_out.items())]
    told = ", ".join([*live.missing, *declined, *kept_out])
    return f"{told}; let in with `feat-fed study readmit`" if kept_out else told


def _site_note(site: str, live: StudyLive, local: SiteLive | None) -> str:
    if site in live.missing:
        return "not here"
    if site in live.declined:
        return live.declined[site]
    if site in live.kept_out:
        return live.kept_out[site]
    if site in live.replied:
        return "replied"
    if local is None:
        return "connected"
    if local.phase == "idle":
        return "sending"
    if local.of_clips:
        return f"{local.phase}, {local.clips} of {local.of_clips} clips"
    return ", ".join([local.phase, *speed_parts(local)])


def _until(deadline: float | None) -> str:
    if deadline is None:
        return ""
    end = time.localtime(deadline)
    other_day = end[:3] != time.localtime()[:3]
    return f" (until {time.strftime('%Y-%m-%d %H:%M' if other_day else '%H:%M:%S', end)})"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
