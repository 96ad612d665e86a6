"""What a downstream experiment found, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from feat_fed.config.base import StrictModel
from feat_fed.downstream.scores import (
    METRICS,
    Floats,
    Ints,
    MetricName,
    confusion_KK,
    patient_draws,
    scores,
)
from feat_fed.downstream.settings import ArmName, DownstreamConfig, Task

_PERCENT = (2.5, 97.5)


class Spread(StrictModel):
    """A metric over seeds, and over the test set.

    Parameters
    ----------
    mean, sd
        Over seeds; no ``sd`` (N - 1) of a single one.
    low, high
        Of the mean: 2.5th and 97.5th percentile over test sets redrawn by patient.
    """

    mean: float
    sd: float | None
    low: float
    high: float


class SeedResult(StrictModel):
    """One training."""

    seed: int
    metrics: dict[MetricName, float]
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="clips: a row for each true class, a column for each answer"
    )
    loss: float = Field(description="of the last tenth of the steps")
    kept: float | None = Field(
        None, description="share of pseudo-labels that counted in the last tenth of the steps"
    )
    seconds: float


class Arm(StrictModel):
    """One way to train, over seeds."""

    name: ArmName
    num_labelled: int
    num_unlabelled: int = 0
    seeds: tuple[SeedResult, ...]
    metrics: dict[MetricName, Spread]
    gain: dict[MetricName, Spread] | None = Field(
        None, description="over the first arm, seed by seed and test set by test set"
    )


class DataFacts(StrictModel):
    """Counts and digests; no names of files."""

    classes: tuple[str, ...]
    positive: str | None = Field(description="the class of f1; null with more than two")
    train: dict[str, int]
    test: dict[str, int]
    test_patients: int
    generated: int | dict[str, int] | None = None
    digests: dict[str, str]


class DownstreamResults(StrictModel):
    """All of one experiment, as far as it has come."""

    task: Task
    complete: bool
    data: DataFacts
    config: DownstreamConfig
    versions: dict[str, str]
    resamples: int
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Answers:
    """What a trained classifier says of the test clips, (N, K), and how it was trained."""

    arm: ArmName
    num_labelled: int
    num_unlabelled: int
    seed: int
    probabilities_NK: Floats
    loss: float
    kept: float | None
    seconds: float


def arms_of(
    answers: Sequence[Answers],
    labels_N: Ints,
    patients: Sequence[str],
    *,
    positive: int,
    resamples: int,
) -> tuple[Arm, ...]:
    """Score the answers of all arms and seeds on the same test sets.

    The interval of an arm is of its mean over seeds; a gain is taken over the seeds that both
    arms have.
    """
    draws = patient_draws(patients, resamples=resamples, seed=0)
    found: dict[ArmName, dict[int, _Found]] = {}
    for each in answers:
        values = scores(
            labels_N,
            each.probabilities_NK,
            positive=positive,
            draws=[np.arange(len(labels_N)), *draws],
        )
        found.setdefault(each.arm, {})[each.seed] = _Found(each, values)
    names = list(found)
    return tuple(
        _arm(name, found[name], found[names[0]] if name != names[0] else None, labels_N)
        for name in names
    )


@dataclass(frozen=True)
class _Found:
    """Answers and their metrics: of the test set itself, and then of its resamples, (1 + R,)."""

    answers: Answers
    values: dict[MetricName, Floats]


def _arm(
    name: ArmName, seeds: dict[int, _Found], first: dict[int, _Found] | None, labels_N: Ints
) -> Arm:
    some = next(iter(seeds.values())).answers
    common = [] if first is None else [seed for seed in seeds if seed in first]
    gains = [_minus(seeds[seed].values, first[seed].values) for seed in common if first]
    return Arm(
        name=name,
        num_labelled=some.num_labelled,
        num_unlabelled=some.num_unlabelled,
        seeds=tuple(_seed_result(each, labels_N) for each in seeds.values()),
        metrics=_spreads([each.values for each in seeds.values()]),
        gain=_spreads(gains) if gains else None,
    )


def _minus(
    values: dict[MetricName, Floats], others: dict[MetricName, Floats]
) -> dict[MetricName, Floats]:
    return {name: values[name] - others[name] for name in values}


def _spreads(of_seeds: Sequence[dict[MetricName, Floats]]) -> dict[MetricName, Spread]:
    spreads: dict[MetricName, Spread] = {}
    for name in (each for each in METRICS if each in of_seeds[0]):
        values_SR = np.stack([each[name] for each in of_seeds])
        low, high = np.nanpercentile(values_SR[:, 1:].mean(axis=0), _PERCENT)
        spreads[name] = Spread(
            mean=float(values_SR[:, 0].mean()),
            sd=float(values_SR[:, 0].std(ddof=1)) if len(values_SR) > 1 else None,
            low=float(low),
            high=float(high),
        )
    return spreads


def _seed_result(found: _Found, labels_N: Ints) -> SeedResult:
    answers = found.answers
    num_classes = answers.probabilities_NK.shape[1]
    table = confusion_KK(labels_N, answers.probabilities_NK.argmax(axis=1), num_classes)
    return SeedResult(
        seed=answers.seed,
        metrics={name: float(value[0]) for name, value in found.values.items()},
        confusion=tuple(tuple(int(count) for count in row) for row in table),
        loss=answers.loss,
        kept=answers.kept,
        seconds=answers.seconds,
    )
