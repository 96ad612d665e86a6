from dataclasses import replace

import pytest

from feat_fed.privacy.accounting import NoisySteps
from feat_fed.privacy.claims import Claim
from feat_fed.privacy.plan import curves

PATIENT = Claim("patient", NoisySteps(1.1, 0.01, 2000), rounds=20, delta=1e-5)
HOSPITAL = Claim("hospital", NoisySteps(6.0, 1.0, 20), rounds=20, delta=1e-5)


def test_each_choice_has_its_curve() -> None:
    labels = [each.label for each in curves(PATIENT, patients=500)]
    assert labels == ["Rounds", "Noise multiplier", "Patients"]
    assert [each.label for each in curves(HOSPITAL, patients=500)] == labels[:2]
    by_steps = replace(PATIENT, rounds=2000)
    assert next(curves(by_steps)).label == "Steps"


@pytest.mark.parametrize("claim", [PATIENT, HOSPITAL])
def test_what_is_chosen_is_on_every_curve_and_spends_what_is_claimed(claim: Claim) -> None:
    for curve in curves(claim, patients=500):
        assert curve.chosen in curve.marks
        spending = curve.spending(curve.chosen)
        assert (spending.noise_multiplier, spending.steps) == (
            claim.spending.noise_multiplier,
            claim.spending.steps,
        )
        assert spending.sample_rate == pytest.approx(claim.spending.sample_rate)


def test_the_points_rise_with_time_and_fall_with_noise() -> None:
    rounds, noise = curves(HOSPITAL)
    rising, falling = rounds.points(), noise.points()
    assert [each.at for each in rising] == [2, 5, 10, 15, 20, 30, 40]
    assert [each.rdp for each in rising] == sorted(each.rdp for each in rising)
    assert [each.rdp for each in falling] == sorted((e.rdp for e in falling), reverse=True)
    assert all(each.prv is not None and each.prv < each.rdp for each in rising + falling)
    line = rounds.line(5)
    assert line[0] == pytest.approx((rising[0].at, rising[0].rdp))
    assert line[-1] == pytest.approx((rising[-1].at, rising[-1].rdp))


def test_more_patients_are_sampled_more_seldom() -> None:
    *_, patients = curves(PATIENT, patients=300)
    assert patients.marks == (75, 150, 300, 600, 1200)
    taken = [each * patients.spending(each).sample_rate for each in patients.marks]
    assert taken == pytest.approx([3] * 5)
    *_, few = curves(PATIENT, patients=1)
    assert all(few.spending(each).sample_rate <= 1 for each in few.marks)


def test_a_study_of_one_round_has_a_curve() -> None:
    claim = Claim("hospital", NoisySteps(6.0, 1.0, 1), rounds=1, delta=1e-5)
    assert next(curves(claim)).marks == (1, 2)
