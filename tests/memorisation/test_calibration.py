"""The threshold's rate is the one that it says, also with hardly any patient."""

import numpy as np
import pytest

from feat_fed.memorisation import COPY, LEVEL, Calibration, chance_of, is_near
from feat_fed.memorisation.calibration import rank_of


@pytest.mark.parametrize("patients", [1, 4, 19, 50])
def test_a_clip_like_the_held_out_ones_is_near_at_the_rate_that_is_told(patients: int) -> None:
    rng = np.random.default_rng(patients)
    scores = rng.uniform(-0.5, 0.9, size=(20_000, patients + 1))
    near = 0
    for heldout, new in zip(scores[:, :-1].tolist(), scores[:, -1].tolist(), strict=True):
        calibration = Calibration.of(heldout)
        assert calibration is not None
        near += is_near(new, calibration)
    assert near / len(scores) == pytest.approx(calibration.rate, abs=0.01)


def test_few_patients_raise_the_rate_and_never_lower_it() -> None:
    rates = {n: Calibration.of([0.1 * n] * n) for n in (1, 18, 19, 38, 39, 1000)}
    told = {n: each.rate for n, each in rates.items() if each is not None}
    assert told[1] == 0.5
    assert told[18] > LEVEL
    assert all(told[n] <= LEVEL for n in (19, 38, 39, 1000))
    assert told[1000] > 0.0495


def test_without_patients_held_out_only_a_copy_is_one() -> None:
    assert Calibration.of([]) is None
    assert is_near(COPY, None) and not is_near(COPY - 0.01, None)


def test_a_held_out_patient_who_is_in_training_too_hides_no_copy() -> None:
    calibration = Calibration.of([1.0, 0.3, 0.2])
    assert calibration is not None and calibration.threshold == 1.0
    assert is_near(0.99, calibration)


def test_the_chance_of_so_many_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    patients, clips = 9, 6
    scores = rng.random((40_000, patients + clips))
    thresholds = np.sort(scores[:, :patients])[:, -rank_of(patients)]
    near = (scores[:, patients:] > thresholds[:, None]).sum(1)
    for count in range(1, clips + 1):
        told = chance_of(count, of=clips, patients=patients)
        assert told == pytest.approx(float((near >= count).mean()), abs=0.01)
    assert chance_of(0, of=clips, patients=patients) == 1.0
    assert chance_of(1, of=1, patients=patients) == pytest.approx(1 / 10)
