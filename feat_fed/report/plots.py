"""Curves of a run as SVG text for a page.

Each figure is drawn on its own canvas, with no state shared between two calls but
matplotlib's defaults, and keeps its words as text: searchable, and in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from feat_fed.report.facts import heldout_points
from feat_fed.report.records import RoundRecord, RunSummary, SiteRound
from feat_fed.report.units import bytes_unit, time_unit

INK, MUTED, HAIRLINE = "#1b2026", "#5a636e", "#e4e7eb"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's set, told apart with any colour vision; yellow is too pale on white."""
_MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
_MOST_MARKS = 15
_SIZE_PT = (420, 270)

_GLOBAL = {"color": INK, "marker": "o", "linewidth": 3.2, "markersize": 6.5, "zorder": 1.9}
"""Broad and below the sites, so that neither hides the other where they agree."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "feat-fed",
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": HAIRLINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class SiteStyle:
    """How a site looks in every curve and table."""

    colour: str
    marker: str
    glyph: str
    """The marker as a character."""


def site_styles(names: Iterable[str]) -> dict[str, SiteStyle]:
    """Give each name a colour and a marker; thirty differ in one of the two."""
    return {
        name: SiteStyle(COLOURS[index % len(COLOURS)], *_MARKERS[index % len(_MARKERS)])
        for index, name in enumerate(sorted(set(names)))
    }


def heldout_loss_svg(rounds: Sequence[RoundRecord], summary: RunSummary) -> str:
    """Draw the held-out loss of the global model against rounds finished."""
    figure, axes = _figure("Rounds finished", "Held-out loss")
    _draw_sites(axes, rounds, lambda part: part.heldout_loss, shift=-1)
    points = heldout_points(rounds, summary)
    _line(axes, points, **_GLOBAL)
    story = (
        f"Held-out loss of the global model, from {points[0][1]:.4g} after {points[0][0]} rounds "
        f"to {points[-1][1]:.4g} after {points[-1][0]}."
        if points
        else "Held-out loss of the global model; none was reported."
    )
    return _svg(figure, "heldout", story)


def train_loss_svg(rounds: Sequence[RoundRecord]) -> str:
    """Draw the training loss of each round, over all sites and by site."""
    figure, axes = _figure("Round", "Training loss")
    _draw_sites(axes, rounds, lambda part: part.train_loss)
    _line(axes, [(each.round, each.train_loss) for each in rounds], **_GLOBAL)
    return _svg(figure, "train", "Training loss of each round, over all sites and by site.")


def seconds_svg(rounds: Sequence[RoundRecord]) -> str:
    """Draw how long each round took, and each site's training in it."""
    unit, size_sec = time_unit(max(each.seconds for each in rounds))
    figure, axes = _figure("Round", f"Time ({unit})")
    _draw_sites(axes, rounds, lambda part: part.train_sec / size_sec if part.train_sec else None)
    _line(axes, [(each.round, each.seconds / size_sec) for each in rounds], **_GLOBAL)
    axes.set_ylim(bottom=0)
    return _svg(figure, "seconds", "Length of each round, and each site's training time in it.")


def bytes_svg(rounds: Sequence[RoundRecord]) -> str:
    """Stack what the sites sent above zero and what they received below it."""
    parts = [part for record in rounds for part in record.sites]
    totals = [
        (sum(p.bytes_up for p in r.sites), sum(p.bytes_down for p in r.sites)) for r in rounds
    ]
    unit, size_bytes = bytes_unit(max(max(pair) for pair in totals))
    figure, axes = _figure("Round", f"Received  |  Sent ({unit})")
    xs = [record.round for record in rounds]
    width = 0.5 if len(rounds) <= _MOST_MARKS else 0.9
    above, below = [0.0] * len(rounds), [0.0] * len(rounds)
    for name, style in site_styles(part.site for part in parts).items():
        for base, direction, field in ((above, 1, "bytes_up"), (below, -1, "bytes_down")):
            heights = [direction * _of_site(r, name, field) / size_bytes for r in rounds]
            axes.bar(xs, heights, width, base, color=style.colour)
            base[:] = [low + height for low, height in zip(base, heights, strict=True)]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(xs[0] - 0.8, xs[-1] + 0.8)
    axes.yaxis.set_major_formatter(lambda value, _position: f"{abs(value):g}")
    return _svg(figure, "bytes", "Bytes that the sites sent and received in each round.")


def _of_site(record: RoundRecord, name: str, field: str) -> float:
    return float(sum(getattr(part, field) for part in record.sites if part.site == name))


def _figure(x_label: str, y_label: str) -> tuple[Figure, Any]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_SIZE_PT[0] / 72, _SIZE_PT[1] / 72), layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    return figure, axes


def _draw_sites(
    axes: Any,  # noqa: ANN401
    rounds: Sequence[RoundRecord],
    value: Callable[[SiteRound], float | None],
    *,
    shift: int = 0,
) -> None:
    parts = [(record.round + shift, part) for record in rounds for part in record.sites]
    for name, style in site_styles(part.site for _, part in parts).items():
        xy = [(x, value(part)) for x, part in parts if part.site == name]
        _line(axes, xy, color=style.colour, marker=style.marker)


def _line(axes: Any, xy: Sequence[tuple[int, float | None]], **look: object) -> None:  # noqa: ANN401
    """Join the points that have a value; of many, some carry the marker."""
    known = [(x, y) for x, y in xy if y is not None]
    every = max(1, len(known) // _MOST_MARKS)
    with mpl.rc_context(STYLE):
        axes.plot([x for x, _ in known], [y for _, y in known], markevery=every, **look)


def _svg(figure: Figure, name: str, story: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids are its own on the page."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<defs>\s*<style.*?</defs>", "", text, count=1, flags=re.DOTALL)
    story = escape(story)
    opening = f'<svg role="img" aria-label="{story}" '
    return text.replace("<svg ", opening, 1).replace(">", f"><title>{story}</title>", 1)
