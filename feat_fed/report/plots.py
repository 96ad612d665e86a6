"""Curves of a run's rounds as SVG text for a page.

A figure grows neither with the rounds nor with the sites: of a long study a point is the mean of
several rounds, and of many sites a band is drawn in place of their lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from feat_fed.config import StudyConfig
from feat_fed.learning_rate import learning_rate_at
from feat_fed.report.drawing import (
    BROAD,
    COLOURS,
    INK,
    MOST_MARKS,
    MUTED,
    draw_band,
    draw_line,
    new_figure,
    site_styles,
    to_svg,
)
from feat_fed.report.facts import heldout_points
from feat_fed.report.participation import Shortfall
from feat_fed.report.records import RoundRecord, RunSummary, SiteRound
from feat_fed.report.series import Float64Array, Series, series, thinned
from feat_fed.report.units import bytes_unit, time_unit

MOST_SITE_LINES = 8
"""Of more sites a band is drawn: their lines could not be told apart."""
BAND_COLOUR = COLOURS[0]
BAND_OPACITIES = (0.16, 0.3)
"""From the lowest site to the highest, and of the middle half of the sites."""
MOST_BARS = 50
MOST_SHORT_MARKS = 60
"""Of updates that ended short, along the learning rate; more would hide the line."""


def heldout_loss_svg(rounds: Sequence[RoundRecord], summary: RunSummary) -> str:
    """Draw the held-out loss of the global model against rounds finished."""
    figure, axes = new_figure("Rounds finished", "Held-out loss")
    of_sites = series(rounds, lambda _: None, lambda part: part.heldout_loss)
    _draw_sites(axes, of_sites, shift=-1)
    points = heldout_points(rounds, summary)
    xs, ys = (list(each) for each in zip(*points, strict=True)) if points else ([], [])
    draw_line(axes, thinned(xs), thinned(ys), **BROAD)
    story = (
        f"Held-out loss of the global model, from {points[0][1]:.4g} after {points[0][0]} rounds "
        f"to {points[-1][1]:.4g} after {points[-1][0]}."
        if points
        else "Held-out loss of the global model; none was reported."
    )
    return to_svg(figure, "heldout", story)


def train_loss_svg(rounds: Sequence[RoundRecord]) -> str:
    """Draw the training loss of each round, over all sites and by site."""
    figure, axes = new_figure("Round", "Training loss")
    losses = series(rounds, lambda each: each.train_loss, lambda part: part.train_loss)
    _draw_sites(axes, losses)
    draw_line(axes, losses.x_B, losses.all_B, **BROAD)
    return to_svg(figure, "train", "Training loss of each round, over all sites and by site.")


def seconds_svg(rounds: Sequence[RoundRecord]) -> str:
    """Draw how long each round took, and each site's training in it."""
    unit, size_sec = time_unit(max(each.seconds for each in rounds))
    figure, axes = new_figure("Round", f"Time ({unit})")
    times = series(
        rounds,
        lambda each: each.seconds / size_sec,
        lambda part: part.train_sec / size_sec if part.train_sec else None,
    )
    _draw_sites(axes, times)
    draw_line(axes, times.x_B, times.all_B, **BROAD)
    axes.set_ylim(0, 1.06 * axes.dataLim.y1 or 1)
    return to_svg(figure, "seconds", "Length of each round, and each site's training time in it.")


def bytes_svg(rounds: Sequence[RoundRecord]) -> str:
    """Stack what the sites sent above zero and what they received below it."""
    sent = _totals(rounds, lambda part: part.bytes_up)
    received = _totals(rounds, lambda part: part.bytes_down)
    unit, size_bytes = bytes_unit(max(sent.all_B.max(), received.all_B.max()))
    figure, axes = new_figure("Round", f"Received  |  Sent ({unit})")
    xs = sent.x_B
    step = xs[1] - xs[0] if len(xs) > 1 else 1.0
    width = step * (0.5 if len(rounds) <= MOST_MARKS else 0.9)
    for totals, direction in ((sent, 1), (received, -1)):
        base_B = np.zeros(len(xs))
        for heights_B, colour in _stack(totals):
            height_B = direction * heights_B / size_bytes
            axes.bar(xs, height_B, width, base_B, color=colour)
            base_B = base_B + height_B
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(xs[0] - 0.8 * step, xs[-1] + 0.8 * step)
    axes.yaxis.set_major_formatter(lambda value, _position: f"{abs(value):g}")
    return to_svg(figure, "bytes", "Bytes that the sites sent and received in each round.")


def learning_rate_svg(study: StudyConfig, rounds: Sequence[RoundRecord], short: Shortfall) -> str:
    """Draw the schedule by the study's step, how far it has come, and where updates ended short."""
    training = study.training
    total = study.rounds * training.local_steps
    figure, axes = new_figure("Optimiser step of the study", "Learning rate")

    def rates(steps: Sequence[int] | Float64Array) -> list[float]:
        whole = (int(each) for each in steps)
        return [learning_rate_at(training, step=each, total_steps=total) for each in whole]

    def path(end: int) -> Float64Array:
        """Return steps up to ``end``, close enough to each other for the warm-up and the cosine."""
        warmup = min(training.warmup_steps, end)
        knots = (np.linspace(0, warmup, 20), np.linspace(warmup, end, 180))
        return np.unique(np.concatenate(knots).astype(int)).astype(float)

    planned = path(total - 1)
    axes.plot(planned, rates(planned), color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    if short.last_step is not None:
        taken = path(short.last_step)
        axes.plot(taken, rates(taken), color=INK, linewidth=3.2)
    if len(short.ends) <= MOST_SHORT_MARKS:
        look = {"color": COLOURS[1], "marker": "|", "markersize": 11, "linestyle": ""}
        axes.plot(short.ends, rates(short.ends), **look)
    axes.set_ylim(bottom=0)
    story = (
        f"Learning rate by the study's {total:,} optimiser steps, "
        f"{'none' if short.last_step is None else f'{short.last_step + 1:,}'} of them taken."
    )
    return to_svg(figure, "rate", story)


def _totals(rounds: Sequence[RoundRecord], of_site: Callable[[SiteRound], float]) -> Series:
    """Return a number of the sites and its sum over them, a bin a bar."""
    return series(
        rounds,
        lambda record: sum(of_site(part) for part in record.sites),
        of_site,
        most=MOST_BARS,
        absent=0.0,
    )


def _stack(totals: Series) -> list[tuple[Float64Array, str]]:
    """Return what lies on top of each other, with colours; of many sites their sum."""
    if len(totals.sites) > MOST_SITE_LINES:
        return [(totals.all_B, BAND_COLOUR)]
    styles = site_styles(totals.sites)
    return [(each, styles[name].colour) for name, each in totals.sites.items()]


def _draw_sites(axes: Any, numbers: Series, *, shift: int = 0) -> None:  # noqa: ANN401
    """Draw a line a site, or of many the range of all and of the middle half."""
    xs = numbers.x_B + shift
    if len(numbers.sites) <= MOST_SITE_LINES:
        styles = site_styles(numbers.sites)
        for name, ys in numbers.sites.items():
            draw_line(axes, xs, ys, color=styles[name].colour, marker=styles[name].marker)
        return
    known_B = np.isfinite(numbers.stacked()).any(axis=0)
    if not known_B.any():
        return
    edges = np.nanpercentile(numbers.stacked()[:, known_B], [0, 25, 75, 100], axis=0)
    for (low, high), opacity in zip(((0, 3), (1, 2)), BAND_OPACITIES, strict=True):
        draw_band(axes, xs[known_B], edges[low], edges[high], colour=BAND_COLOUR, opacity=opacity)
