"""The run's report: one HTML file that asks the net for nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import dump_yaml
from feat_fed.privacy.claims import claims
from feat_fed.report import plots, units
from feat_fed.report.facts import ended_at, heldout_points, site_totals, weights_share
from feat_fed.report.page import data_url, render
from feat_fed.report.records import RoundRecord, RunSummary
from feat_fed.report.run_store import RunStore, SampleFiles

_LARGEST_GIF_BYTES = 6_000_000
"""Above it the page carries the film, which is some five times smaller."""


def write_report(store: RunStore) -> Path:
    """Write the run's ``report.html`` from what its folder holds now, and return its path.

    A run without rounds, without samples or with failed sites gives a page that says so.

    Raises
    ------
    RunError
        A file of the run is damaged.
    """
    page = render("report.html.j2", _page(store))
    write_bytes_atomically(store.report, page.encode())
    return store.report


def _page(store: RunStore) -> dict[str, Any]:
    rounds, summary = store.rounds(), store.summary()
    totals = site_totals(rounds)
    files = SampleFiles.under(store.samples)
    return {
        "summary": summary,
        "study": store.study,
        "study_yaml": dump_yaml(store.study.without_paths()),
        "claims": tuple(claims(store.study)),
        "rounds": rounds,
        "totals": totals,
        "styles": plots.site_styles(each.site for each in totals),
        "heldout": heldout_points(rounds, summary),
        "share": weights_share(rounds),
        "span": units.format_span(rounds[0].started_at, ended_at(rounds)) if rounds else "",
        "median_sec": median(each.seconds for each in rounds) if rounds else 0.0,
        "curves": _curves(rounds, summary),
        "gif": _data_uri(files.gif, "image/gif", at_most_bytes=_LARGEST_GIF_BYTES),
        "mp4": _data_uri(files.mp4, "video/mp4"),
        "contact_sheet": _data_uri(files.contact_sheet, "image/png"),
        "central_rounds": [each.central for each in rounds if each.central],
        "written_at": datetime.now(UTC).isoformat(),
        "nothing": units.NOTHING,
    }


def _curves(rounds: tuple[RoundRecord, ...], summary: RunSummary) -> list[dict[str, str]]:
    if not rounds:
        return []
    return [
        {
            "svg": plots.heldout_loss_svg(rounds, summary),
            "title": "Held-out loss of the global model",
            "note": "On patients that no site trains with, scored by each site and averaged by "
            "its clips. Point 0 is the untrained model.",
        },
        {
            "svg": plots.train_loss_svg(rounds),
            "title": "Training loss",
            "note": "Mean over the round's optimiser steps.",
        },
        {
            "svg": plots.seconds_svg(rounds),
            "title": "Time",
            "note": "The whole round, and each site's training in it.",
        },
        {
            "svg": plots.bytes_svg(rounds),
            "title": "Data moved",
            "note": "Above zero: sent by the sites. Below: received by them.",
        },
    ]


def _data_uri(path: Path, kind: str, *, at_most_bytes: int | None = None) -> str | None:
    """Return the file as a data URI; None when it is absent or too large."""
    if not path.is_file() or (at_most_bytes is not None and path.stat().st_size > at_most_bytes):
        return None
    return data_url(path.read_bytes(), kind)
