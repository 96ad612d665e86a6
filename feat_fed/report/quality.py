"""The part of the report that says how good the model is, by metrics of its clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feat_fed.measured import Evaluation, MetricValue
from feat_fed.report.comparisons import Comparable, Curve, comparable
from feat_fed.report.quality_plots import metric_svg

_MOST_GROUPS = 3
_MOST_FIGURES = 8
_MOST_OTHERS = 20


@dataclass(frozen=True)
class Figure:
    """A metric by round, drawn."""

    title: str
    svg: str
    note: str


@dataclass(frozen=True)
class Group:
    """Numbers that may be compared with each other."""

    last: Evaluation
    curves: tuple[Curve, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Quality:
    """All that the page tells of the metrics."""

    groups: tuple[Group, ...]
    more_groups: int
    others: tuple[Evaluation, ...]
    """Of checkpoints and folders, the newest first."""

    @property
    def headline(self) -> MetricValue | None:
        """The first metric of the newest group that knows better and worse."""
        values = (curve.last.value for group in self.groups[:1] for curve in group.curves)
        return next((each for each in values if each.better != "neither"), None)


def quality(found: Sequence[Evaluation]) -> Quality:
    """Order evaluations for the page; of many, the newest."""
    groups = comparable(found)
    others = [each for each in found if each.source != "round"]
    return Quality(
        groups=tuple(_group(each, index) for index, each in enumerate(groups[:_MOST_GROUPS])),
        more_groups=len(groups[_MOST_GROUPS:]),
        others=tuple(others[: -_MOST_OTHERS - 1 : -1]),
    )


def _group(one: Comparable, index: int) -> Group:
    drawn = [each for each in one.curves if len(each.points) > 1]
    drawn.sort(key=lambda each: each.last.value.better == "neither")
    figures = (
        Figure(each.metric, metric_svg(each, name=f"metric{index}x{number}"), _note(each))
        for number, each in enumerate(drawn[:_MOST_FIGURES])
    )
    return Group(one.last, one.curves, tuple(figures))


def _note(curve: Curve) -> str:
    interval = (
        " The interval is 95 % by bootstrap."
        if any(each.value.low is not None for each in curve.points)
        else ""
    )
    if curve.best is None:
        return f"A diagnostic: neither more nor less is better.{interval}"
    return (
        f"{curve.last.value.better.capitalize()} is better; the best is "
        f"{curve.best.value.value:.4g}, after round {curve.best.round}.{interval}"
    )
