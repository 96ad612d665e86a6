"""Which of a run's evaluations may be compared, and what they say round by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from feat_fed.measured import Evaluation, MetricValue


@dataclass(frozen=True)
class Point:
    """One metric of one round's model."""

    round: int
    value: MetricValue


@dataclass(frozen=True)
class Curve:
    """One metric of the rounds' models, in order of the rounds."""

    metric: str
    points: tuple[Point, ...]

    @property
    def last(self) -> Point:
        """The metric of the last round that was measured."""
        return self.points[-1]

    @property
    def best(self) -> Point | None:
        """The best round's; None where the metric knows no better and worse."""
        if self.last.value.better == "neither":
            return None
        best = self.points[0]
        for each in self.points:
            best = each if each.value.beats(best.value) else best
        return best

    @property
    def untrained(self) -> Point | None:
        """The untrained model's, where it was measured."""
        return self.points[0] if self.points[0].round == 0 else None


@dataclass(frozen=True)
class Comparable:
    """Evaluations whose numbers may be compared: of one benchmark, protocol and way to sample."""

    last: Evaluation
    """Of the round that is furthest."""
    curves: tuple[Curve, ...]


def comparable(found: Sequence[Evaluation]) -> tuple[Comparable, ...]:
    """Group the evaluations of rounds by what their numbers depend on, the newest group first.

    A round that was measured twice in the same way counts by its last evaluation.
    """
    groups: dict[str, dict[int, Evaluation]] = defaultdict(dict)
    for each in found:
        if each.round is not None and each.source == "round":
            groups[each.terms][each.round] = each
    whole = [[by_round[number] for number in sorted(by_round)] for by_round in groups.values()]
    whole.sort(key=lambda group: max(each.at for each in group), reverse=True)
    return tuple(Comparable(group[-1], _curves(group)) for group in whole)


def _curves(group: Sequence[Evaluation]) -> tuple[Curve, ...]:
    names = dict.fromkeys(metric.metric for each in reversed(group) for metric in each.metrics)
    return tuple(
        Curve(
            name,
            tuple(
                Point(each.round, found)
                for each in group
                if each.round is not None and (found := each.metric(name)) is not None
            ),
        )
        for name in names
    )
