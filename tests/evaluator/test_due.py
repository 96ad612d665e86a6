"""Which rounds are due, and which is best."""

from __future__ import annotations

import os

import pytest

from evaluator_records import evaluation, metric
from feat_fed.evaluator.due import due_rounds, first_score, ranked
from feat_fed.evaluator.priority import step_back


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [(1, 9, [4, 3, 2, 1, 0]), (2, 9, [4, 2, 0]), (3, 4, [4, 3, 0]), (100, 9, [0])],
)
def test_the_untrained_every_nth_and_the_last_are_due(
    every: int, last: int, due: list[int]
) -> None:
    assert due_rounds(range(5), every=every, last=last) == due


@pytest.mark.parametrize(
    ("better", "order"), [("lower", [2, 3, 1]), ("higher", [1, 2, 3]), ("neither", [])]
)
def test_rounds_are_ranked_by_a_metric_the_earlier_of_equals_first(
    better: str, order: list[int]
) -> None:
    values = {1: 5.0, 2: 1.0, 3: 1.0}
    found = [
        evaluation(round=number, metrics=(metric("IS", value, better),))
        for number, value in values.items()
    ]
    assert [each.round for each in ranked(found, "IS")] == order
    assert ranked(found, "FVD") == []


def test_the_last_words_of_a_round_count() -> None:
    found = [
        evaluation(round=1, metrics=(metric("FVD", 1.0),)),
        evaluation(round=2, metrics=(metric("FVD", 2.0),)),
        evaluation(round=1, metrics=(metric("FVD", 3.0),)),
    ]
    assert [(each.round, each.value) for each in ranked(found, "FVD")] == [(2, 2.0), (1, 3.0)]


def test_the_first_metric_that_knows_better_is_the_score() -> None:
    both = (metric("sharpness", 1.0, "neither"), metric("FVD", 2.0))
    assert first_score(evaluation(metrics=both)) == "FVD"
    assert first_score(evaluation(metrics=both[:1])) is None


def test_stepping_back_is_for_the_whole_process() -> None:
    pid = os.fork()
    if pid == 0:
        step_back(19)
        step_back(5)
        os._exit(os.nice(0))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 19
