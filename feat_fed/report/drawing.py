"""The look of the report's figures, and from a figure to SVG text.

Each figure is drawn on its own canvas, with no state shared between two calls but
matplotlib's defaults, and keeps its words as text: searchable, and in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

INK, MUTED, HAIRLINE = "#1b2026", "#5a636e", "#e4e7eb"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's set, told apart with any colour vision; yellow is too pale on white."""
_MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
MOST_MARKS = 15
_SIZE_PT = (420, 270)

BROAD = {"color": INK, "marker": "o", "linewidth": 3.2, "markersize": 6.5, "zorder": 1.9}
"""A line of all sites: below the sites' own, so that neither hides the other where they agree."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "feat-fed",
    "font.size": 11.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
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


def new_figure(x_label: str, y_label: str) -> tuple[Figure, Any]:
    """Return a figure and its axes; the x axis counts in whole numbers."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_SIZE_PT[0] / 72, _SIZE_PT[1] / 72), layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    return figure, axes


def draw_line(axes: Any, xs: ArrayLike, ys: ArrayLike, **look: object) -> None:  # noqa: ANN401
    """Join the points whose y is finite; of many, some carry the marker."""
    x_R, y_R = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
    known_R = np.isfinite(y_R)
    every = max(1, int(known_R.sum()) // MOST_MARKS)
    with mpl.rc_context(STYLE):
        axes.plot(x_R[known_R], y_R[known_R], **{"markevery": every, **look})


def draw_band(
    axes: Any,  # noqa: ANN401
    xs: ArrayLike,
    low_R: NDArray[np.float64],
    high_R: NDArray[np.float64],
    *,
    colour: str,
    opacity: float,
) -> None:
    """Shade between two curves, where both are known."""
    axes.fill_between(xs, low_R, high_R, color=colour, alpha=opacity, linewidth=0, zorder=1.5)


def to_svg(figure: Figure, name: str, story: str) -> str:
    """Return the figure as an ``<svg>`` element whose ids are its own on the page.

    Parameters
    ----------
    name
        Of the figure, letters and digits; unique on the page.
    story
        What it shows, in words for those who cannot see it.
    """
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
