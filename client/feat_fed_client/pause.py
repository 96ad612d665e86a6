"""A hospital's pause: a file in the site's store, which its engineer may also make by hand."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from feat_fed.atomic import write_bytes_atomically

PAUSE_FILE = "paused"
"""In the store. Empty, or with anything else than a time in it, it lasts until it is removed."""


@dataclass(frozen=True)
class Pause:
    """No training until then; until the file is removed where ``until`` is None."""

    until: dt.datetime | None


def begin_pause(store: Path, until: dt.datetime | None) -> None:
    """Make the file, in place of one that is there."""
    store.mkdir(parents=True, exist_ok=True)
    text = "" if until is None else until.isoformat(timespec="seconds") + "\n"
    write_bytes_atomically(store / PAUSE_FILE, text.encode())


def end_pause(store: Path) -> None:
    """Remove the file, if there is one."""
    (store / PAUSE_FILE).unlink(missing_ok=True)


def pause_of(store: Path, now: dt.datetime) -> Pause | None:
    """Return the pause that holds at ``now``, a time with its offset.

    A file that cannot be read or understood pauses too: who made it wanted something.
    """
    try:
        text = (store / PAUSE_FILE).read_text().strip()
        until = dt.datetime.fromisoformat(text).astimezone() if text else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, OverflowError):
        until = None
    return None if until is not None and until <= now else Pause(until)
