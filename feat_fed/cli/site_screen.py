"""What a hospital's engineer sees of the site's own work."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from feat_fed.cli.console import console
from feat_fed.cli.progress import speed_parts
from feat_fed.protocol import DECLINES, FAILURES, SHORTENED, Report
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.report.units import format_duration
from feat_fed_client.history import PastRound, past_rounds

_PLAIN_EVERY_SEC = 60.0


class SiteScreen:
    """One line that follows the site's work; each round's outcome as a line that stays.

    Where nobody looks (no terminal), lines come at each change of what is done, and not more
    than one a minute between.

    Parameters
    ----------
    store
        The site's.
    tell
        Called with each line that stays.
    """

    def __init__(self, store: Path, *, tell: Callable[[str], None]) -> None:
        self._store = store
        self._tell = tell
        self._began_at = time.time()
        self._line = console.status("waiting for the study") if console.is_terminal else None
        self._phase: tuple[str, int] = ("idle", 0)
        self._told_at = time.monotonic()
        self._last_round = _last(store)

    def __enter__(self) -> Self:
        if self._line:
            self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._line:
            self._line.stop()

    def update(self) -> None:
        """Show the site as it stands."""
        last = _last(self._store)
        if last is not None and last != self._last_round:
            self._tell(outcome_line(last.report))
        self._last_round = last
        live = SiteLive.read(self._store / LIVE_FILE)
        if live is None or live.at < self._began_at:
            return
        if self._line:
            self._line.update(live_line(live))
            return
        changed = (live.phase, live.round) != self._phase
        if changed or time.monotonic() - self._told_at > _PLAIN_EVERY_SEC:
            if live.phase != "idle":
                self._tell(live_line(live))
            self._phase, self._told_at = (live.phase, live.round), time.monotonic()


def live_line(live: SiteLive) -> str:
    """Return what the site does at this moment."""
    if live.phase == "idle":
        return "waiting for the study"
    parts = [f"round {live.round}: {live.phase}"]
    if live.of_clips:
        parts.append(f"{live.clips} of {live.of_clips} clips")
    if live.steps:
        parts.append(f"step {live.step} of {live.steps}")
    return ", ".join([*parts, *speed_parts(live)])


def outcome_line(report: Report) -> str:
    """Return what came of a round at the site."""
    what = "scoring" if report.task == "evaluate" else f"round {report.round}"
    if report.outcome != "ok":
        told = next(text for code, text in (FAILURES | DECLINES).items() if code == report.code)
        where = f" (look for {report.reference} in the log)" if report.reference else ""
        if report.code in ("privacy", "protection"):
            where = " (the log says why)"
        return f"{what} {report.outcome}: {told}{where}"
    parts = [f"{what} done"]
    if report.task == "train":
        parts += [f"{report.steps} steps in {format_duration(report.train_sec)}"]
        if report.ended_by != "steps":
            parts[-1] += f" ({SHORTENED[report.ended_by]})"
        if report.skipped_steps:
            parts.append(f"{report.skipped_steps} skipped")
    if report.train_loss is not None:
        parts.append(f"train loss {report.train_loss:.4f}")
    if report.heldout_loss is not None:
        parts.append(f"held-out loss {report.heldout_loss:.4f}")
    return ", ".join(parts)


def _last(store: Path) -> PastRound | None:
    return next(reversed(past_rounds(store)), None)
