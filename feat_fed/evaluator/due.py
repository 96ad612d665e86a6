"""Which rounds are to be measured, and which of those that were is best."""

from __future__ import annotations

from collections.abc import Iterable

from feat_fed.measured import Evaluation
from feat_fed.report.evaluation_folder import Best


def due_rounds(rounds: Iterable[int], *, every: int, last: int) -> list[int]:
    """Return those to be measured: the untrained model, every n-th, the last; newest first."""
    return sorted((each for each in rounds if each in (0, last) or each % every == 0), reverse=True)


def last_words(evaluations: Iterable[Evaluation]) -> dict[int, Evaluation]:
    """Return each round's last evaluation, in order of the rounds."""
    found = {each.round: each for each in evaluations if each.round is not None}
    return {number: found[number] for number in sorted(found)}


def ranked(evaluations: Iterable[Evaluation], metric: str) -> list[Best]:
    """Return the rounds that have the metric, the best first; of equal ones the earlier."""
    rounds = last_words(evaluations)
    found = [
        (value.value if value.better == "lower" else -value.value, number, value, each)
        for number, each in rounds.items()
        if (value := each.metric(metric)) is not None and value.better != "neither"
    ]
    return [
        Best(metric=metric, value=value.value, round=number, weights_sha256=each.weights_sha256)
        for _, number, value, each in sorted(found, key=lambda one: one[:2])
    ]


def first_score(evaluation: Evaluation) -> str | None:
    """Return the first metric that knows better from worse."""
    return next((each.metric for each in evaluation.metrics if each.better != "neither"), None)
