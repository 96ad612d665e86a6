from typing import Any

import pytest

from feat_fed.config import StudyConfig
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.claims import claims, told
from feat_fed.privacy.resolve import resolved

PATIENT = {"epsilon": 8, "delta": 1e-5, "sample_rate": 0.1}
CENTRAL = {"epsilon": 6, "delta": 1e-6}


def study(rounds: int = 10, **privacy: dict[str, Any]) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "rounds": rounds,
            "model": {"in_channels": 6},
            "training": {"local_steps": 20},
            "strategy": {"weigh_by": "equal"},
            "sites": {"minimum": 3},
            "privacy": privacy,
        }
    )


def test_a_study_without_privacy_stays_the_same() -> None:
    plain = study()
    assert resolved(plain) == plain
    assert told(plain) == []


def test_noise_is_found_for_both_and_reaches_each_epsilon() -> None:
    found = resolved(study(patient=PATIENT, central=CENTRAL))
    patient, central = found.privacy.patient, found.privacy.central
    assert patient is not None
    assert central is not None
    assert patient.noise_multiplier is not None
    assert central.noise_multiplier is not None
    of_patient = [NoisySteps(patient.noise_multiplier, 0.1, steps=200)]
    of_hospital = [NoisySteps(central.noise_multiplier, 1.0, steps=10)]
    assert 7.9 < rdp_epsilon(of_patient, delta=1e-5) <= 8
    assert 5.9 < rdp_epsilon(of_hospital, delta=1e-6) <= 6
    assert [(each.unit, [each.spending]) for each in claims(found)] == [
        ("patient", of_patient),
        ("hospital", of_hospital),
    ]
    assert resolved(found) == found
    lines = told(found)
    assert "of each patient" in lines[0]
    assert "of each hospital" in lines[1]


def test_secure_aggregation_is_told_and_claims_no_epsilon() -> None:
    found = resolved(study(secure_aggregation={}))
    assert not list(claims(found))
    assert "sums of updates" in told(found)[0]


def test_noise_that_is_given_stays() -> None:
    given = study(patient={"noise_multiplier": 1.5}, central={"noise_multiplier": 7})
    assert resolved(given) == given


def test_noise_that_is_more_than_needed_stays() -> None:
    given = study(patient=PATIENT | {"noise_multiplier": 3})
    assert resolved(given) == given
    assert next(claims(given)).epsilon < 8


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        (
            {"patient": PATIENT | {"noise_multiplier": 0.7}},
            r"200 steps with a noise multiplier of 0\.7 spend an epsilon of [\d.]+ of each "
            r"patient, more than privacy\.patient\.epsilon, 8; raise .* or leave privacy\.patient",
        ),
        (
            {"central": CENTRAL | {"noise_multiplier": 1}},
            r"10 rounds .* of each hospital, more than privacy\.central\.epsilon, 6",
        ),
        ({"patient": {"epsilon": 1e-4, "sample_rate": 1.0}}, "no noise makes 200 steps"),
    ],
)
def test_an_epsilon_that_is_not_kept_is_refused(privacy: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolved(study(**privacy))


def test_a_run_that_goes_on_keeps_the_noise_that_it_began_with() -> None:
    asked = study(rounds=10, patient=PATIENT)
    begun = resolved(asked)
    shorter = resolved(study(rounds=5, patient=PATIENT), begun=begun)
    assert resolved(asked, begun=begun) == begun
    assert shorter.privacy == begun.privacy
    assert next(claims(shorter)).epsilon < 6
    with pytest.raises(ConfigError, match=r"400 steps .* ask for fewer rounds, or begin another"):
        resolved(study(rounds=20, patient=PATIENT), begun=begun)


def test_of_noise_that_was_given_more_rounds_spend_more() -> None:
    begun = study(patient={"noise_multiplier": 1.5})
    longer = study(rounds=20, patient={"noise_multiplier": 1.5})
    assert resolved(longer, begun=begun) == longer
    assert next(claims(longer)).epsilon > next(claims(begun)).epsilon
