"""From the epsilon that a study may spend to its noise, once, before it begins."""

from __future__ import annotations

from feat_fed.config import CentralPrivacyConfig, PatientPrivacyConfig, PrivacyConfig, StudyConfig
from feat_fed.errors import ConfigError
from feat_fed.privacy.accounting import noise_for, rounded_up
from feat_fed.privacy.claims import Claim, hospital_claim, patient_claim

_COUNT_SHARE = 1 / 20
"""Of the sites: the count's noise in Andrew et al., arXiv 1905.03871."""


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
    patient = privacy.patient and _patient(study, privacy.patient, before.patient)
    central = privacy.central and _central(study, privacy.central, before.central)
    found = privacy.model_copy(update={"patient": patient, "central": central})
    study = study.model_copy(update={"privacy": found})
    for name, mechanism, claim in (
        ("patient", patient, patient_claim(study)),
        ("central", central, hospital_claim(study)),
    ):
        if mechanism is not None and claim is not None:
            _require_within(f"privacy.{name}", mechanism.epsilon, claim, goes_on=begun is not None)
    return study


def _patient(
    study: StudyConfig, patient: PatientPrivacyConfig, before: PatientPrivacyConfig | None
) -> PatientPrivacyConfig:
    noise = patient.noise_multiplier or (before and before.noise_multiplier)
    if noise is None:
        assert patient.epsilon is not None
        noise = noise_for(
            epsilon=patient.epsilon,
            delta=patient.delta,
            sample_rate=patient.sample_rate,
            steps=study.rounds * study.training.local_steps,
        )
    return patient.model_copy(update={"noise_multiplier": noise})


def _central(
    study: StudyConfig, central: CentralPrivacyConfig, before: CentralPrivacyConfig | None
) -> CentralPrivacyConfig:
    noise = central.noise_multiplier or (before and before.noise_multiplier)
    count = central.count_noise or (before and before.count_noise)
    adaptive = central.clipping == "adaptive"
    if noise is None:
        assert central.epsilon is not None
        noise = noise_for(
            epsilon=central.epsilon, delta=central.delta, sample_rate=1.0, steps=study.rounds
        )
        if adaptive:
            count = count or _count_noise(study, noise)
            noise = _noise_beside(noise, count)
    if adaptive:
        count = count or _count_noise(study, noise)
    return central.model_copy(update={"noise_multiplier": noise, "count_noise": count})


def _count_noise(study: StudyConfig, noise: float) -> float:
    """Return a count's noise that takes a quarter of what may be spent, or less."""
    return rounded_up(max(noise, study.sites.minimum * _COUNT_SHARE))


def _noise_beside(noise: float, count_noise: float) -> float:
    """Return the noise multiplier of the sum of updates that leaves ``noise`` in all.

    It undoes :func:`feat_fed.privacy.claims.release_noise`.
    """
    left = noise**-2 - (2 * count_noise) ** -2
    if left <= 0:
        raise ConfigError(
            f"privacy.central.count_noise is {count_noise:g}, and with it the count of updates "
            f"alone spends more than privacy.central.epsilon; raise it to {rounded_up(noise):g}, "
            "or leave it out"
        )
    return rounded_up(left**-0.5)


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
        f"{spending.steps} steps with a noise multiplier of {spending.noise_multiplier:.4g} spend "
        f"an epsilon of {claim.epsilon:.4g} of each {claim.unit}, more than {field}.epsilon, "
        f"{epsilon:g}; {mend}"
    )
