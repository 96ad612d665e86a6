"""The held-out losses of a study and its baselines by round, as SVG text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feat_fed.report.drawing import BROAD, COLOURS, draw_band, draw_line, new_figure, to_svg
from feat_fed.report.series import evenly

CENTRALISED_COLOUR, ALONE_COLOUR = COLOURS[0], COLOURS[1]
BAND_OPACITY = 0.18
_MOST_POINTS = 200


@dataclass(frozen=True)
class Range:
    """Several models' losses after a round."""

    mean: float
    low: float
    high: float


def worth_svg(
    federated: Mapping[int, float],
    centralised: Mapping[int, float],
    alone: Mapping[int, Range],
    at_home: Mapping[int, float],
) -> str:
    """Draw mean held-out losses by rounds finished; what was not trained is empty.

    Of more than 200 rounds some are left out, the first and last not.
    """
    figure, axes = new_figure("Rounds finished", "Held-out loss")
    xs = _some(list(alone))
    if xs:
        low, high = (np.array([getattr(alone[x], end) for x in xs]) for end in ("low", "high"))
        draw_band(axes, xs, low, high, colour=ALONE_COLOUR, opacity=BAND_OPACITY)
        draw_line(axes, xs, [alone[x].mean for x in xs], color=ALONE_COLOUR, marker="s")
        home = [at_home.get(x, np.nan) for x in xs]
        draw_line(axes, xs, home, color=ALONE_COLOUR, linestyle=(0, (4, 3)))
    for losses, look in (
        (centralised, {"color": CENTRALISED_COLOUR, "marker": "^"}),
        (federated, BROAD),
    ):
        xs = _some(list(losses))
        draw_line(axes, xs, [losses[x] for x in xs], **look)
    return to_svg(figure, "worth", _story(federated, centralised, alone))


def _some(rounds: list[int]) -> list[int]:
    return [rounds[index] for index in evenly(len(rounds), most=_MOST_POINTS)]


def _story(
    federated: Mapping[int, float], centralised: Mapping[int, float], alone: Mapping[int, Range]
) -> str:
    last = max(federated)
    parts = [f"Held-out loss by round; after round {last}: federated {federated[last]:.4g}"]
    if centralised:
        parts.append(f"all clips in one place {centralised[max(centralised)]:.4g}")
    if alone:
        parts.append(f"hospitals alone {alone[max(alone)].mean:.4g} in the mean")
    return ", ".join(parts) + "."
