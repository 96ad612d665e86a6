"""A sweep as a table for other programs and as a page: ``sweep.csv`` and ``sweep.html``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.sweep import SweepConfig
from feat_fed.report.drawing import draw_line, new_figure, site_styles, to_svg
from feat_fed.report.page import render
from feat_fed.report.series import evenly
from feat_fed.report.sweep_row import SweepRow
from feat_fed.report.units import NOTHING

_COLUMNS = (
    *("variation", "state", "rounds", "heldout_loss", "seconds", "megabytes"),
    *("patient_epsilon", "hospital_epsilon", "centralised_loss", "alone_loss", "changes"),
    "message",
)
_MOST_LINES = 30
"""Of a figure: so many differ in colour or marker."""
_MOST_POINTS = 200


def write_sweep(root: Path, config: SweepConfig, rows: Sequence[SweepRow]) -> tuple[Path, Path]:
    """Replace both files in the sweep's folder, and return their paths."""
    table, page = root / "sweep.csv", root / "sweep.html"
    write_bytes_atomically(table, _csv(rows).encode())
    lines = [row for row in rows if row.heldout][:_MOST_LINES]
    losses = [row.heldout_loss for row in rows if row.state == "complete"]
    facts = {
        "name": config.name,
        "study": config.study,
        "expected": len(config.variations),
        "rows": rows,
        "best": min((each for each in losses if each is not None), default=None),
        "baselines": config.baselines,
        "private": any(row.patient_epsilon or row.hospital_epsilon for row in rows),
        "svg": _svg(lines) if lines else "",
        "styles": site_styles(row.name for row in lines),
        "written_at": datetime.now(UTC).isoformat(),
        "nothing": NOTHING,
    }
    write_bytes_atomically(page, render("sweep.html.j2", facts).encode())
    return table, page


def _csv(rows: Sequence[SweepRow]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        numbers = (row.heldout_loss, round(row.seconds, 1), row.moved_bytes / 1e6)
        more = (row.patient_epsilon, row.hospital_epsilon, row.centralised, row.alone)
        told = ("" if each is None else each for each in (*numbers, *more))
        changes = row.told_changes if row.changes else ""
        writer.writerow((row.name, row.state, row.rounds, *told, changes, row.message))
    return buffer.getvalue()


def _svg(rows: Sequence[SweepRow]) -> str:
    """Draw each variation's held-out loss against the rounds finished."""
    figure, axes = new_figure("Rounds finished", "Held-out loss")
    styles = site_styles(row.name for row in rows)
    for row in rows:
        rounds = sorted(row.heldout)
        xs = [rounds[index] for index in evenly(len(rounds), most=_MOST_POINTS)]
        style = styles[row.name]
        draw_line(axes, xs, [row.heldout[x] for x in xs], color=style.colour, marker=style.marker)
    ends = ", ".join(
        f"{row.name} {row.heldout[max(row.heldout)]:.4g} after round {max(row.heldout)}"
        for row in rows
    )
    return to_svg(figure, "sweep", f"Held-out loss by round: {ends}.")
