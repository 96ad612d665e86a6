"""What a study promises of each patient and of each hospital, if all its rounds are done."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from feat_fed.config import CentralPrivacyConfig, StudyConfig
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon

Unit = Literal["patient", "hospital"]


@dataclass(frozen=True)
class Claim:
    """A bound on what a study tells of one unit, whose part in any step may be all or nothing.

    It is of each site's patients by what that site sends, and of a hospital by the global weights.
    """

    unit: Unit
    spending: NoisySteps
    rounds: int
    delta: float

    @property
    def epsilon(self) -> float:
        """The bound by RDP, which holds however few of the rounds a site takes part in."""
        return rdp_epsilon([self.spending], delta=self.delta)

    def __str__(self) -> str:
        kind = self.spending
        if self.unit == "patient":
            turns = (
                f"{kind.steps:,} steps, in which each takes part with chance {kind.sample_rate:g}"
            )
        else:
            turns = f"{kind.steps:,} round{'' if kind.steps == 1 else 's'}"
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} of each {self.unit}: noise of "
            f"{kind.noise_multiplier:.4g} times the clip norm in each of {turns}"
        )


def patient_claim(study: StudyConfig) -> Claim | None:
    """Return what DP-SGD at the sites spends of each patient; None where it is off.

    The study's noise is known (:func:`feat_fed.privacy.resolve.resolved`).
    """
    patient = study.privacy.patient
    if patient is None:
        return None
    assert patient.noise_multiplier is not None
    steps = study.rounds * study.training.local_steps
    spending = NoisySteps(patient.noise_multiplier, patient.sample_rate, steps)
    return Claim("patient", spending, study.rounds, patient.delta)


def hospital_claim(study: StudyConfig) -> Claim | None:
    """Return what the global weights spend of each hospital; None where central noise is off.

    A hospital may be in every round: sites are not sampled in secret.
    """
    central = study.privacy.central
    if central is None:
        return None
    spending = NoisySteps(release_noise(central), 1.0, study.rounds)
    return Claim("hospital", spending, study.rounds, central.delta)


def claims(study: StudyConfig) -> Iterator[Claim]:
    """Yield what the study's mechanisms claim."""
    for each in (patient_claim(study), hospital_claim(study)):
        if each is not None:
            yield each


def told(study: StudyConfig) -> list[str]:
    """Return a line for people for each mechanism that is on."""
    lines = [str(each) for each in claims(study)]
    if study.privacy.secure_aggregation is not None:
        lines.append("secure aggregation: the server sees sums of updates and no single one")
    return lines


def release_noise(central: CentralPrivacyConfig) -> float:
    """Return the noise multiplier of all that a round releases.

    Where clipping is adaptive that is the sum of updates, and the count of those within the
    bound, each less one half: the count's noise hides a half. Together they spend what one
    mechanism of this noise does (Andrew et al., arXiv 1905.03871, Theorem 1).
    """
    assert central.noise_multiplier is not None
    if central.clipping == "fixed":
        return central.noise_multiplier
    assert central.count_noise is not None
    return 1 / math.hypot(1 / central.noise_multiplier, 1 / (2 * central.count_noise))
