"""Which rounds are to be measured, and which of those that were is best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from feat_fed.measured import Evaluation, MetricValue
from feat_fed.report.evaluation_folder import Best


def due_rounds(rounds: Iterable[int], *, every: int, last: int) -> list[int]:
    """Return those to be measured: the untrained model, every n-th, the last; newest first."""
    return sorted((each for each in rounds if each in (0, last) or each % every == 0), reverse=True)


def last_words(evaluations: Iterable[Evaluation]) -> dict[int, Evaluation]:
    """Return each round's last evaluation, in order of the rounds."""
    found = {each.round: each for each in evaluations if each.round is not None}
    return {number: found[number] for number in sorted(found)}


def best_of(
    evaluations: Sequence[Evaluation],
    metric: str | None,
    *,
    has_weights: Callable[[Evaluation], bool],
) -> Best | None:
    """Return the best round whose weights are there; of equal ones the earlier.

    Parameters
    ----------
    evaluations
        Of rounds, all on the same terms.
    metric
        By which; if None the first that knows better from worse.
    """
    best: tuple[Evaluation, MetricValue] | None = None
    for each in last_words(evaluations).values():
        value = each.metric(metric) if metric else _first(each)
        if value is None or value.better == "neither" or not has_weights(each):
            continue
        if best is None or value.beats(best[1]):
            best = each, value
    if best is None or best[0].round is None:
        return None
    evaluation, value = best
    return Best(
        metric=value.metric,
        value=value.value,
        round=best[0].round,
        weights_sha256=evaluation.weights_sha256,
    )


def _first(evaluation: Evaluation) -> MetricValue | None:
    return next((each for each in evaluation.metrics if each.better != "neither"), None)
