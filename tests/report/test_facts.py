from __future__ import annotations

import pytest

from feat_fed.report import RoundRecord, RunSummary, units
from feat_fed.report.facts import (
    SiteTotals,
    ended_at,
    heldout_points,
    site_totals,
    weights_share,
)

Records = tuple[RoundRecord, ...]


def test_n_rounds_have_n_plus_one_heldout_points(records: Records, final: RunSummary) -> None:
    assert heldout_points(records, final) == ((0, 1.12), (1, 0.56), (2, 0.39), (3, 0.27))


def test_a_run_under_way_has_no_final_point(records: Records, final: RunSummary) -> None:
    running = final.model_copy(update={"state": "running", "final_heldout_loss": None})
    assert heldout_points(records, running) == ((0, 1.12), (1, 0.56), (2, 0.39))


def test_a_resumed_run_prefers_what_its_rounds_say(records: Records, final: RunSummary) -> None:
    stale = final.model_copy(update={"rounds_done": 2, "final_heldout_loss": 0.9})
    assert heldout_points(records, stale)[-1] == (2, 0.39)


def test_totals_by_site(records: Records) -> None:
    assert site_totals(records) == (
        SiteTotals("north", 3, 3, 64, 124.5, 14_437_032, 14_437_032, 7.5, 12.0),
        SiteTotals("south", 3, 2, 64, 72.5, 14_437_032, 9_624_688, 5.0, 8.0),
    )


def test_what_travels_is_told_in_units_of_whole_weights(records: Records) -> None:
    assert weights_share(records) is None  # records of before that was noted
    whole = 4 * 4_812_344
    share = weights_share([each.model_copy(update={"weights_bytes": whole}) for each in records])
    assert share is not None
    assert (share.down, share.up) == (0.25, 0.25)


def test_a_run_ends_when_its_last_round_does(records: Records) -> None:
    assert ended_at(records) == "2026-01-31T12:03:57.250000+00:00"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_600, "1 MB"),
        (4_812_344, "4.81 MB"),
        (5_000_000_000_000, "5,000 GB"),
    ],
)
def test_bytes(number: int, text: str) -> None:
    assert units.format_bytes(number) == text


@pytest.mark.parametrize(
    ("sec", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (75, "1 min 15 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(sec: float, text: str) -> None:
    assert units.format_duration(sec) == text


@pytest.mark.parametrize(("loss", "text"), [(None, "–"), (0.25, "0.2500"), (1.23456, "1.235")])  # noqa: RUF001
def test_losses(loss: float | None, text: str) -> None:
    assert units.format_loss(loss) == text


def test_a_span_tells_the_day_once_where_it_can() -> None:
    start = "2026-01-31T22:30:00+00:00"
    one_day = units.format_span(start, "2026-01-31T23:05:59+00:00")
    two_days = units.format_span(start, "2026-02-01T00:10:00+00:00")
    assert one_day.replace("–", "-") == "2026-01-31 22:30 - 23:05 UTC"  # noqa: RUF001
    assert two_days.replace("–", "-") == "2026-01-31 22:30 - 2026-02-01 00:10 UTC"  # noqa: RUF001
