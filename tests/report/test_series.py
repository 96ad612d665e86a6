from __future__ import annotations

import numpy as np
import pytest

from feat_fed.report import RoundRecord
from feat_fed.report.series import bin_starts, evenly, rounds_a_point, series, thinned

NAN = float("nan")


def test_few_values_stay_as_they_are() -> None:
    np.testing.assert_array_equal(thinned([3.0, NAN, 1.0], most=3), [3.0, NAN, 1.0])


def test_many_become_means_of_what_is_known() -> None:
    values = [1.0, 3.0, NAN, 5.0, NAN, NAN]
    np.testing.assert_array_equal(thinned(values, most=3), [2.0, 5.0, NAN])


@pytest.mark.parametrize("number", [1, 7, 200, 201, 1000])
def test_bins_hold_every_round_and_are_of_like_size(number: int) -> None:
    sizes = np.diff([*bin_starts(number), number])
    assert sizes.sum() == number
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == rounds_a_point(number)


def test_the_first_and_the_last_are_always_chosen() -> None:
    assert evenly(3, most=5) == [0, 1, 2]
    assert evenly(101, most=3) == [0, 50, 100]
    chosen = evenly(1000, most=60)
    assert (len(chosen), chosen[0], chosen[-1]) == (60, 0, 999)


def test_a_site_that_was_not_asked_has_no_number(records: tuple[RoundRecord, ...]) -> None:
    alone = records[2].model_copy(update={"sites": records[2].sites[:1]})
    losses = series([*records[:2], alone], lambda _: None, lambda part: part.train_loss)
    np.testing.assert_array_equal(losses.sites["north"], [0.55, 0.36, 0.30])
    np.testing.assert_array_equal(losses.sites["south"], [0.57, NAN, NAN])
    assert np.isnan(losses.all_B).all()
