"""What was measured of a run's models: ``RUN/evaluation/``, as its readers see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from feat_fed.measured import Evaluation, MetricValue

FOLDER = "evaluation"
"""Of a run, with ``metrics.jsonl`` and ``samples/round-0012/`` in it."""


@dataclass(frozen=True)
class Evaluations:
    """What was measured, in the order in which it was."""

    found: tuple[Evaluation, ...]
    unreadable: int
    """Lines that are no evaluation, or 1 where the file cannot be read."""


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


def read_evaluations(root: Path) -> Evaluations:
    """Read a run's evaluations as they were appended; none where nothing was measured.

    A line that is no evaluation is only counted: a run is not held up by what measures it. One
    without its end is what a crash left of an append, and is passed over.
    """
    try:
        *whole, _torn = (root / FOLDER / "metrics.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return Evaluations((), 0)
    except OSError:
        return Evaluations((), 1)
    found = [each for each in map(_evaluation, whole) if each is not None]
    return Evaluations(tuple(found), len(whole) - len(found))


def samples_folder(root: Path) -> Path:
    """Name the folder that holds a folder of sample clips a round."""
    return root / FOLDER / "samples"


def comparable(found: Sequence[Evaluation]) -> tuple[Comparable, ...]:
    """Group the evaluations of rounds by what their numbers depend on, the newest group first.

    A round that was measured twice in the same way counts by its last evaluation.
    """
    groups: dict[tuple[str, ...], dict[int, Evaluation]] = defaultdict(dict)
    for each in found:
        if each.round is not None and each.source == "round":
            groups[_kind(each)][each.round] = each
    whole = [[by_round[number] for number in sorted(by_round)] for by_round in groups.values()]
    whole.sort(key=lambda group: max(each.at for each in group), reverse=True)
    return tuple(Comparable(group[-1], _curves(group)) for group in whole)


def _evaluation(line: bytes) -> Evaluation | None:
    try:
        return Evaluation.model_validate_json(line)
    except ValidationError:
        return None


def _kind(one: Evaluation) -> tuple[str, ...]:
    networks = sorted(one.networks.items())
    return (
        one.benchmark_digest,
        one.protocol_digest,
        one.weights or "",
        str(networks),
        str(sorted(one.sampler.items())),
        str(one.seed),
    )


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
