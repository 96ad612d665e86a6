"""What a study promises of each patient and of each hospital, if all its rounds are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from feat_fed.config import StudyConfig
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon

Unit = Literal["patient", "hospital"]

LARGEST_DELTA = 0.1
"""In units of 1 / patients, that passes without a word: delta bounds how likely one is exposed."""


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

    @property
    def turns(self) -> str:
        """What the spending counts, in words."""
        return "steps" if self.unit == "patient" else "rounds"

    def __str__(self) -> str:
        kind = self.spending
        sampled = f", each with chance {kind.sample_rate:g}" if self.unit == "patient" else ""
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} of each {self.unit}, with a noise "
            f"multiplier of {kind.noise_multiplier:.4g} in {kind.steps:,} {self.turns}{sampled}"
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
    assert central.noise_multiplier is not None
    spending = NoisySteps(central.noise_multiplier, 1.0, study.rounds)
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
