"""The part of the report that says what federating is worth: federated, alone, and all in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from feat_fed.report.baseline_folder import (
    BaselineFolder,
    HospitalFacts,
    mean_loss,
    read_scores,
    scores_of,
)
from feat_fed.report.run_store import RunStore
from feat_fed.report.worth_plot import Range, worth_svg

_LONG = 3
"""From so many rounds on the untrained model is not drawn: the others would lie on one line."""
_T = TypeVar("_T")

Scores = Mapping[int, Mapping[str, float]]
"""Each hospital's loss by round."""


@dataclass(frozen=True)
class HospitalRow:
    """What each model's loss is on a hospital's own held-out patients, and of its own elsewhere."""

    name: str
    facts: HospitalFacts
    federated: float | None
    centralised: float | None
    alone: float | None
    """Of the model that it trained alone."""
    alone_everywhere: float | None
    """Of the same, on everybody's held-out patients."""


@dataclass(frozen=True)
class Worth:
    """All that the page tells of the baselines, after one and the same round."""

    round: int
    federated: float
    centralised: float | None
    alone: Range | None
    """Models of single hospitals, on everybody's patients: mean, lowest and highest."""
    alone_at_home: float | None
    """Mean of each hospital's own model on its own patients."""
    rows: tuple[HospitalRow, ...]
    svg: str
    untrained: float | None
    """The untrained model's, where the figure leaves it out for scale."""

    @property
    def heldout_patients(self) -> int:
        """How many patients the models are scored on."""
        return sum(row.facts.heldout_patients for row in self.rows)

    @property
    def share(self) -> float | None:
        """Which part of the way from a hospital alone to all clips in one place federating goes."""
        if self.centralised is None or self.alone is None or self.alone.mean <= self.centralised:
            return None
        return (self.alone.mean - self.federated) / (self.alone.mean - self.centralised)


def worth(store: RunStore) -> Worth | None:
    """Compare the run with its baselines, as far as all have come; None where there are none.

    Raises
    ------
    RunError
        A file of the baselines is damaged.
    """
    folder = BaselineFolder.of_run(store.root)
    facts = folder.facts()
    federated = read_scores(folder.federated)
    centralised = read_scores(scores_of(folder.centralised))
    alone = {name: read_scores(scores_of(folder.alone(name))) for name in facts}
    alone = alone if all(alone.values()) else {}  # a mean over some would be of others
    there = [each for each in (centralised, *alone.values()) if each]
    if not facts or not federated or not there:
        return None
    common = set(federated).intersection(*there)
    if not common:
        return None
    last = max(common)
    means = {number: _mean(losses, facts) for number, losses in federated.items()}
    central_means = {number: _mean(losses, facts) for number, losses in centralised.items()}
    ranges = _ranges(alone, facts)
    home = _at_home(alone, facts)
    first = 1 if last >= _LONG else 0
    return Worth(
        round=last,
        federated=means[last],
        centralised=central_means.get(last),
        alone=ranges.get(last),
        alone_at_home=home.get(last),
        rows=tuple(
            HospitalRow(
                name,
                facts[name],
                federated[last].get(name),
                centralised.get(last, {}).get(name),
                alone[name][last].get(name) if alone else None,
                ranges_of[last] if (ranges_of := _means(alone.get(name, {}), facts)) else None,
            )
            for name in facts
        ),
        svg=worth_svg(
            _from(first, means),
            _from(first, central_means),
            _from(first, ranges),
            _from(first, home),
        ),
        untrained=means.get(0) if first else None,
    )


def _mean(losses: Mapping[str, float], facts: Mapping[str, HospitalFacts]) -> float:
    found = mean_loss(losses, facts)
    assert found is not None  # the plan was refused unless somebody holds patients out
    return found


def _from(first: int, numbers: Mapping[int, _T]) -> dict[int, _T]:
    return {number: each for number, each in numbers.items() if number >= first}


def _means(scores: Scores, facts: Mapping[str, HospitalFacts]) -> dict[int, float]:
    return {number: _mean(losses, facts) for number, losses in scores.items()}


def _ranges(alone: Mapping[str, Scores], facts: Mapping[str, HospitalFacts]) -> dict[int, Range]:
    """Return mean, best and worst of the hospitals' models, of the rounds that all have done."""
    means = [_means(scores, facts) for scores in alone.values()]
    rounds = sorted(set(means[0]).intersection(*means)) if means else []
    return {
        number: Range(fmean(losses), min(losses), max(losses))
        for number in rounds
        if (losses := [each[number] for each in means])
    }


def _at_home(alone: Mapping[str, Scores], facts: Mapping[str, HospitalFacts]) -> dict[int, float]:
    """Return the mean loss of each hospital's own model on its own patients."""
    rounds = sorted(set.intersection(*map(set, alone.values()))) if alone else []
    own = {
        number: {
            name: scores[number][name] for name, scores in alone.items() if name in scores[number]
        }
        for number in rounds
    }
    return _means(own, facts)
