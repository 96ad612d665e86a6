"""The schedule against its points that can be computed by hand."""

import pytest

from feat_fed.config import TrainingConfig
from feat_fed.learning_rate import learning_rate_at


def rates(total_steps: int, **changes: object) -> list[float]:
    training = TrainingConfig.model_validate({"learning_rate": 2.0, **changes})
    return [
        learning_rate_at(training, step=step, total_steps=total_steps)
        for step in range(total_steps + 2)
    ]


def test_constant_after_a_linear_rise() -> None:
    assert rates(4, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(2) == [2.0] * 4


def test_a_cosine_falls_from_the_top_to_its_floor_and_stays() -> None:
    told = rates(5, learning_rate_schedule="cosine", learning_rate_floor=0.1)
    half = 2.0 * (0.1 + 0.9 / 2)
    quarter = 2.0 * (0.1 + 0.9 * (2 + 2**0.5) / 4)
    assert told == pytest.approx([2.0, quarter, half, 2 * half - quarter, 0.2, 0.2, 0.2])


def test_a_cosine_begins_where_the_warm_up_ends() -> None:
    told = rates(7, learning_rate_schedule="cosine", warmup_steps=2)
    assert told[:3] == [1.0, 2.0, 2.0]
    assert told[6] == pytest.approx(0.0)


def test_a_study_that_is_all_warm_up_has_no_fall() -> None:
    assert rates(2, learning_rate_schedule="cosine", warmup_steps=2)[:2] == [1.0, 2.0]
