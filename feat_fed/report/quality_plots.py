"""A metric of the model by round, with its interval, as SVG text."""

from __future__ import annotations

import math

import numpy as np

from feat_fed.report.comparisons import Curve
from feat_fed.report.drawing import COLOURS, draw_band, draw_line, new_figure, to_svg
from feat_fed.report.series import evenly

_MOST_POINTS = 200
_WIDE = 10


def metric_svg(curve: Curve, *, name: str) -> str:
    """Draw a metric against the round after which the model was measured.

    Of more than 200 points some are left out, the first and last not.
    """
    points = [curve.points[index] for index in evenly(len(curve.points), most=_MOST_POINTS)]
    xs = np.array([each.round for each in points], dtype=float)
    ys = np.array([each.value.value for each in points])
    low, high = (
        np.array([_known(getattr(each.value, end)) for each in points]) for end in ("low", "high")
    )
    figure, axes = new_figure("Rounds finished", curve.metric)
    look = {"color": COLOURS[0], "marker": "o", "linewidth": 2.4}
    if np.isfinite(low).any():
        if len(points) < _WIDE:
            bars = np.maximum(0, np.stack([ys - low, high - ys]))
            axes.errorbar(xs, ys, bars, fmt="none", ecolor=COLOURS[0], elinewidth=1.2, capsize=3)
        else:
            draw_band(axes, xs, low, high, colour=COLOURS[0], opacity=0.2)
    draw_line(axes, xs, ys, **look)
    first, last = points[0], points[-1]
    story = (
        f"{curve.metric} of the model, from {first.value.value:.4g} after round {first.round} to "
        f"{last.value.value:.4g} after round {last.round}."
    )
    return to_svg(figure, name, story)


def _known(value: float | None) -> float:
    return math.nan if value is None else value
