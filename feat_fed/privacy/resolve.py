"""From the epsilon that a study may spend to its noise, once, before it begins."""

from __future__ import annotations

from typing import TypeVar

from feat_fed.config import (
    CentralPrivacyConfig,
    PatientPrivacyConfig,
    PrivacyConfig,
    StudyConfig,
    validate,
)
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import noise_for
from feat_fed.privacy.claims import Claim, hospital_claim, patient_claim

_Mechanism = TypeVar("_Mechanism", PatientPrivacyConfig, CentralPrivacyConfig)


def resolved(study: StudyConfig, *, begun: StudyConfig | None = None) -> StudyConfig:
    """Return the study with the noise of each mechanism, found from its epsilon where not given.

    Parameters
    ----------
    begun
        The study as the run that goes on began it: noise that was found then stays.

    Raises
    ------
    ConfigError
        If an epsilon cannot be reached, or is less than what the noise that is given spends.
    """
    privacy, before = study.privacy, begun.privacy if begun else PrivacyConfig()
    patient, central = privacy.patient, privacy.central
    if patient is not None:
        steps = study.rounds * study.training.local_steps
        patient = _with_noise(
            patient, before.patient, "patient", sample_rate=patient.sample_rate, steps=steps
        )
    if central is not None:
        central = _with_noise(
            central, before.central, "central", sample_rate=1.0, steps=study.rounds
        )
    noisy = privacy.model_copy(update={"patient": patient, "central": central})
    study = study.model_copy(update={"privacy": noisy})
    for name, mechanism, claim in (
        ("patient", patient, patient_claim(study)),
        ("central", central, hospital_claim(study)),
    ):
        if mechanism is not None and claim is not None:
            _require_within(f"privacy.{name}", mechanism.epsilon, claim, goes_on=begun is not None)
    return study


def _with_noise(
    mechanism: _Mechanism,
    before: _Mechanism | None,
    name: str,
    *,
    sample_rate: float,
    steps: int,
) -> _Mechanism:
    if mechanism.noise_multiplier is not None:
        return mechanism
    noise = before.noise_multiplier if before else None
    if noise is None:
        assert mechanism.epsilon is not None
        noise = noise_for(
            epsilon=mechanism.epsilon, delta=mechanism.delta, sample_rate=sample_rate, steps=steps
        )
    tree = mechanism.model_dump() | {"noise_multiplier": noise}
    return validate(type(mechanism), tree, f"privacy.{name}, with the noise of its epsilon,")


def _require_within(field: str, epsilon: float | None, claim: Claim, *, goes_on: bool) -> None:
    if epsilon is None or claim.epsilon <= epsilon:
        return
    spending = claim.spending
    mend = (
        "ask for fewer rounds, or begin another run (--run)"
        if goes_on
        else f"raise {field}.epsilon, or leave {field}.noise_multiplier out: it is found"
    )
    raise ConfigError(
        f"{spending.steps:,} {claim.turns} with a noise multiplier of "
        f"{spending.noise_multiplier:.4g} spend an epsilon of {claim.epsilon:.4g} of each "
        f"{claim.unit}, more than {field}.epsilon, {epsilon:g}; {mend}"
    )
