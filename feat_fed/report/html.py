"""The run's report: one HTML file that asks the net for nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import StudyConfig, dump_yaml
from feat_fed.privacy.claims import claims
from feat_fed.report import plots, units
from feat_fed.report.data_summary import DataSummary
from feat_fed.report.drawing import site_styles
from feat_fed.report.drawn import DrawnClips
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.facts import ended_at, heldout_points, site_totals, weights_share
from feat_fed.report.films import films_by_round
from feat_fed.report.page import data_url, render
from feat_fed.report.participation import PARTS, Shortfall, exclusions, shortfall, strips
from feat_fed.report.quality import quality
from feat_fed.report.records import RoundRecord, RunSummary
from feat_fed.report.run_store import RunStore, SampleFiles
from feat_fed.report.series import evenly, rounds_a_point
from feat_fed.report.worth import worth
from feat_fed.report.worth_plot import ALONE_COLOUR, CENTRALISED_COLOUR

_LARGEST_GIF_BYTES = 3_000_000
"""Above it the page carries the film, which is some five times smaller."""
_LARGEST_FILM_BYTES = 6_000_000
"""Above it the page carries neither, and says where they are."""
_LARGEST_PNG_BYTES = 400_000
_MOST_ROUNDS = 40
"""Rows of the table of rounds."""
_MOST_PARTS = 240
"""Rows of the table of sites by round."""
_MOST_EXCLUSIONS = 40


def write_report(store: RunStore) -> Path:
    """Write the run's ``report.html`` from what its folder holds now, and return its path.

    A run without rounds, without samples, without evaluations or with failed sites gives a page
    that says so. The page grows neither with the rounds nor with the films beyond a bound, and
    says what it leaves out.

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
    evaluation = EvaluationFolder.of_run(store.root)
    few_sites = len(totals) <= plots.MOST_SITE_LINES
    excluded = exclusions(rounds)
    return {
        "summary": summary,
        "study": store.study,
        "study_yaml": dump_yaml(store.study.without_paths()),
        "claims": tuple(claims(store.study)),
        "rounds": rounds,
        "totals": totals,
        "styles": site_styles(each.site for each in totals) if few_sites else {},
        "bands": (plots.BAND_COLOUR, plots.BAND_OPACITIES),
        "strips": strips(rounds),
        "parts": PARTS,
        "versions": _site_versions(rounds),
        "heldout": heldout_points(rounds, summary),
        "share": weights_share(rounds),
        "span": units.format_span(rounds[0].started_at, ended_at(rounds)) if rounds else "",
        "median_sec": median(each.seconds for each in rounds) if rounds else 0.0,
        "curves": _curves(store.study, rounds, summary),
        "quality": quality(evaluation.evaluations()),
        "worth": worth(store),
        "worth_colours": (CENTRALISED_COLOUR, ALONE_COLOUR),
        "films": films_by_round(evaluation),
        "samples": _samples(SampleFiles.under(store.samples)),
        "drawn": DrawnClips.read(store.samples),
        "shown_rounds": [rounds[index] for index in evenly(len(rounds), most=_MOST_ROUNDS)],
        "shown_parts": rounds[-max(1, _MOST_PARTS // max(1, len(totals))) :],
        "exclusions": excluded[:_MOST_EXCLUSIONS],
        "more_exclusions": len(excluded[_MOST_EXCLUSIONS:]),
        "dealt": DataSummary.read(store.root),
        "central_rounds": [each.central for each in rounds if each.central],
        "written_at": datetime.now(UTC).isoformat(),
        "nothing": units.NOTHING,
    }


def _curves(
    study: StudyConfig, rounds: tuple[RoundRecord, ...], summary: RunSummary
) -> list[dict[str, str]]:
    if not rounds:
        return []
    short = shortfall(rounds, local_steps=study.training.local_steps)
    many = rounds_a_point(len(rounds))
    means = f" Each point is the mean of up to {many} rounds." if many > 1 else ""
    return [
        {
            "svg": plots.heldout_loss_svg(rounds, summary),
            "title": "Held-out loss of the global model",
            "note": "On patients that no site trains with, scored by each site and averaged by "
            f"its clips. Point 0 is the untrained model.{means}",
        },
        {
            "svg": plots.train_loss_svg(rounds),
            "title": "Training loss",
            "note": f"Mean over the round's optimiser steps.{means}",
        },
        {
            "svg": plots.learning_rate_svg(study, rounds, short),
            "title": "Learning rate",
            "note": _of_steps(study, short),
        },
        {
            "svg": plots.seconds_svg(rounds),
            "title": "Time",
            "note": "The whole round, with looking at files, encoding, starting and sending, "
            f"and each site's training in it.{means}",
        },
        {
            "svg": plots.bytes_svg(rounds),
            "title": "Data moved",
            "note": "Above zero: sent by the sites. Below: received by them. "
            + ("A bar is the mean of several rounds." if len(rounds) > plots.MOST_BARS else ""),
        },
    ]


def _of_steps(study: StudyConfig, short: Shortfall) -> str:
    steps = study.training.local_steps
    plan = (
        f"Broken line: the study's schedule; solid: as far as it has come. Round r begins at step "
        f"(r - 1) times {steps:,}, whatever was taken before."
    )
    if not short.updates:
        return plan
    if not short.shorter:
        return f"{plan} Every aggregated update took all {steps:,} steps."
    marks = "; the marks show where they ended" if short.shorter <= plots.MOST_SHORT_MARKS else ""
    return (
        f"{plan} {short.shorter:,} of {short.updates:,} aggregated updates took fewer than "
        f"{steps:,} steps, the shortest {short.fewest_steps:,}, and left out the rest of their "
        f"round's stretch{marks}."
    )


def _site_versions(rounds: Sequence[RoundRecord]) -> dict[str, str]:
    """Return each site's feat-fed as it was last told."""
    return {part.site: part.version for each in rounds for part in each.sites if part.version}


def _samples(files: SampleFiles) -> dict[str, str]:
    """Return the clips that were drawn last as addresses: what moves, or else its film, a sheet."""
    found = {"gif": _data_uri(files.gif, "image/gif", at_most_bytes=_LARGEST_GIF_BYTES)}
    found["mp4"] = "" if found["gif"] else _data_uri(files.mp4, "video/mp4")
    found["sheet"] = _sheet(files.contact_sheet)
    found["too_large"] = "yes" if files.mp4.exists() and not any(found.values()) else ""
    return found


def _data_uri(path: Path, kind: str, *, at_most_bytes: int = _LARGEST_FILM_BYTES) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    return data_url(content, kind) if len(content) <= at_most_bytes else ""


def _sheet(path: Path) -> str:
    """Return the sheet of stills; a large one, of noisy clips, as JPEG."""
    found = _data_uri(path, "image/png", at_most_bytes=_LARGEST_PNG_BYTES)
    if found or not path.exists():
        return found
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.convert("RGB").save(buffer, format="JPEG", quality=85)
    except (OSError, Image.DecompressionBombError):
        return ""
    content = buffer.getvalue()
    return data_url(content, "image/jpeg") if len(content) <= _LARGEST_FILM_BYTES else ""
