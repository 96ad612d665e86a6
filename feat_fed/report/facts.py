"""What a run's records add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from feat_fed.report.records import RoundRecord, RunSummary, SiteRound


@dataclass(frozen=True)
class SiteTotals:
    """One site over the whole run."""

    site: str
    rounds_asked: int
    rounds_ok: int
    examples: int
    """Training clips it last reported."""
    train_sec: float
    bytes_down: int
    bytes_up: int
    down_sec: float
    """In which something was on its way, as far as that was measured."""
    up_sec: float


def site_totals(rounds: Sequence[RoundRecord]) -> tuple[SiteTotals, ...]:
    """Sum each site's part, sites by name."""
    parts = list(chain.from_iterable(record.sites for record in rounds))
    return tuple(
        _totals(name, [part for part in parts if part.site == name])
        for name in sorted({part.site for part in parts})
    )


@dataclass(frozen=True)
class WeightsShare:
    """What travelled, in units of whole and exact weights for each update and each question."""

    down: float
    up: float


def weights_share(rounds: Sequence[RoundRecord]) -> WeightsShare | None:
    """Return what a message's weights were of whole ones; None where that is not known."""
    pairs = [(part, each.weights_bytes) for each in rounds for part in each.sites]
    asked_bytes = sum(whole for _, whole in pairs)
    answered_bytes = sum(whole for part, whole in pairs if part.bytes_up)
    if not asked_bytes or not answered_bytes:
        return None
    return WeightsShare(
        down=sum(part.bytes_down for part, _ in pairs) / asked_bytes,
        up=sum(part.bytes_up for part, _ in pairs) / answered_bytes,
    )


def heldout_points(
    rounds: Sequence[RoundRecord], summary: RunSummary
) -> tuple[tuple[int, float], ...]:
    """Pair rounds finished with the held-out loss of the global model at that point.

    Round r starts from the weights of round r-1, and its record scores those: N rounds
    give points 0 to N-1. The summary scores the last weights, point N.
    """
    points = {
        record.round - 1: record.heldout_loss
        for record in rounds
        if record.heldout_loss is not None
    }
    if summary.final_heldout_loss is not None:
        points.setdefault(summary.rounds_done, summary.final_heldout_loss)
    return tuple(sorted(points.items()))


def ended_at(rounds: Sequence[RoundRecord]) -> str:
    """Return when the last of at least one round ended, ISO 8601 in UTC."""
    last = rounds[-1]
    return (datetime.fromisoformat(last.started_at) + timedelta(seconds=last.seconds)).isoformat()


def _totals(name: str, parts: Sequence[SiteRound]) -> SiteTotals:
    reported = [part.examples for part in parts if part.examples]
    return SiteTotals(
        site=name,
        rounds_asked=len(parts),
        rounds_ok=sum(part.status == "ok" for part in parts),
        examples=reported[-1] if reported else 0,
        train_sec=sum(part.train_sec for part in parts),
        bytes_down=sum(part.bytes_down for part in parts),
        bytes_up=sum(part.bytes_up for part in parts),
        down_sec=sum(part.link.down_sec for part in parts if part.link),
        up_sec=sum(part.link.up_sec for part in parts if part.link),
    )
