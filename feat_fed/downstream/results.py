"""What a downstream experiment found, as a file."""

from __future__ import annotations

from collections.abc import Sequence

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


class Answers(StrictModel):
    """A trained classifier's answers, in memory only."""

    arm: ArmName
    num_labelled: int
    num_unlabelled: int
    seed: int
    probabilities_NK: tuple[tuple[float, ...], ...]
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
    by_arm: dict[ArmName, dict[int, Answers]] = {}
    for each in answers:
        by_arm.setdefault(each.arm, {})[each.seed] = each
    at_once = {(each.arm, each.seed): _scored(each, labels_N, positive, draws) for each in answers}
    first = next(iter(by_arm), None)
    arms = []
    for name, of_seed in by_arm.items():
        own = [at_once[name, seed] for seed in of_seed]
        gain = None
        if first is not None and name != first:
            common = [seed for seed in of_seed if seed in by_arm[first]]
            gain = _spreads(
                [
                    {
                        key: at_once[name, seed][key] - at_once[first, seed][key]
                        for key in METRICS
                        if key in at_once[name, seed]
                    }
                    for seed in common
                ]
            )
        some = next(iter(of_seed.values()))
        arms.append(
            Arm(
                name=name,
                num_labelled=some.num_labelled,
                num_unlabelled=some.num_unlabelled,
                seeds=tuple(
                    _seed_result(each, labels_N, at_once[name, each.seed])
                    for each in of_seed.values()
                ),
                metrics=_spreads(own) or {},
                gain=gain,
            )
        )
    return tuple(arms)


def _scored(
    answers: Answers, labels_N: Ints, positive: int, draws: Sequence[Ints]
) -> dict[MetricName, Floats]:
    """Return the metrics of the test set itself, and then those of its resamples, (1 + R,)."""
    probabilities_NK = np.array(answers.probabilities_NK)
    every = [np.arange(len(labels_N)), *draws]
    return scores(labels_N, probabilities_NK, positive=positive, draws=every)


def _spreads(of_seeds: Sequence[dict[MetricName, Floats]]) -> dict[MetricName, Spread] | None:
    if not of_seeds:
        return None
    spreads: dict[MetricName, Spread] = {}
    for name in METRICS:
        if name not in of_seeds[0]:
            continue
        values_SR = np.stack([each[name] for each in of_seeds])
        low, high = np.nanpercentile(values_SR[:, 1:].mean(axis=0), _PERCENT)
        spreads[name] = Spread(
            mean=float(values_SR[:, 0].mean()),
            sd=float(values_SR[:, 0].std(ddof=1)) if len(values_SR) > 1 else None,
            low=float(low),
            high=float(high),
        )
    return spreads


def _seed_result(answers: Answers, labels_N: Ints, values: dict[MetricName, Floats]) -> SeedResult:
    probabilities_NK = np.array(answers.probabilities_NK)
    table = confusion_KK(labels_N, probabilities_NK.argmax(axis=1), probabilities_NK.shape[1])
    return SeedResult(
        seed=answers.seed,
        metrics={name: float(value[0]) for name, value in values.items()},
        confusion=tuple(tuple(int(count) for count in row) for row in table),
        loss=answers.loss,
        kept=answers.kept,
        seconds=answers.seconds,
    )
