"""A study's sites as the coordinator sees them: for people and for machines."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from feat_fed.errors import ConfigError
from feat_fed.protocol import REFUSALS
from feat_fed.report.live import StudyLive
from feat_fed.report.records import SiteRound
from feat_fed.report.run_store import RunStore
from feat_fed_server.roster import FileRoster
from feat_fed_server.site_orders import SiteOrders
from feat_fed_server.standing import Offence, standing_of

_FRESH_SEC = 60.0
_SHOWN = 3


class StudySite(BaseModel):
    """One site; times are ISO 8601 in UTC."""

    site: str
    state: Literal["admitted", "quarantined", "excluded"]
    connected: bool | None
    """None: the study does not run, so nobody knows."""
    last_seen: str | None
    refused_in_a_row: int
    offences: list[Offence]
    rounds: dict[str, int]
    """How many rounds ended how for the site."""
    last_round: SiteRound | None


def study_sites(store: RunStore) -> list[StudySite]:
    """Find out about every site that the study knows, by name."""
    orders = SiteOrders.read(store.root)
    standing = standing_of(store).with_orders(orders)
    live, rounds = _fresh(store), _rounds_of(store)
    found = []
    for name in known_sites(store):
        own, past = standing.of(name), rounds.get(name, [])
        connected = None if live is None else name in live.connected
        seen_at = time.time() if connected else own.answered_at
        out = name in orders.excluded
        found.append(
            StudySite(
                site=name,
                state="excluded"
                if out
                else "quarantined"
                if name in standing.quarantined()
                else "admitted",
                connected=connected,
                last_seen=None if seen_at is None else _iso(seen_at),
                refused_in_a_row=own.in_a_row,
                offences=list(own.offences),
                rounds=dict(Counter(each.status for each in past)),
                last_round=past[-1] if past else None,
            )
        )
    return found


def site_lines(sites: Sequence[StudySite]) -> Iterator[str]:
    """Yield what people read."""
    for each in sites:
        here = {None: "", True: ", connected", False: ", not connected"}[each.connected]
        yield f"{each.site}: {each.state}{here}"
        if not each.connected:
            yield f"  last answer: {each.last_seen or 'none yet'}"
        counts = ", ".join(f"{count} {status}" for status, count in sorted(each.rounds.items()))
        yield f"  rounds: {counts or 'none yet'}"
        if each.last_round is not None and each.last_round.reason:
            yield f"  last: {each.last_round.status}: {each.last_round.reason}"
        for offence in each.offences[-_SHOWN:]:
            yield f"  round {offence.round}: refused: {REFUSALS[offence.code]}"
        if len(each.offences) > _SHOWN:
            yield f"  and {len(each.offences) - _SHOWN} refusals before"


def known_sites(store: RunStore) -> list[str]:
    """Return the names of the roster and of the past rounds."""
    names = set(_rounds_of(store))
    with contextlib.suppress(FileNotFoundError):
        names |= set(FileRoster(store.roster).expected)
    return sorted(names)


def require_known(store: RunStore, site: str) -> None:
    """Raise :class:`ConfigError` if the study has no such site."""
    known = known_sites(store)
    if site not in known:
        told = f"its sites are {', '.join(known)}" if known else "it knows no site yet"
        raise ConfigError(f"the study of {store.root} has no site {site!r}; {told}")


def _fresh(store: RunStore) -> StudyLive | None:
    """Return where the study stands, if it runs."""
    live = StudyLive.read(store.live)
    with contextlib.suppress(OSError):
        age_sec = time.time() - store.live.stat().st_mtime
        if live is not None and live.phase != "done" and age_sec < _FRESH_SEC:
            return live
    return None


def _rounds_of(store: RunStore) -> dict[str, list[SiteRound]]:
    found: dict[str, list[SiteRound]] = {}
    for each in _all(store):
        found.setdefault(each.site, []).append(each)
    return found


def _all(store: RunStore) -> Iterable[SiteRound]:
    return (part for record in store.rounds() for part in record.sites)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
