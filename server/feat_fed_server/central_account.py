"""What a run's releases have spent of each hospital, by what the run has written down.

A record is on the disk before the weights that it tells of can leave. A round that was done again
with other noise, as after a step back to an older checkpoint, is a release more: every record that
was ever appended counts, and not the last one of each round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from feat_fed.config.privacy import CentralPrivacyConfig
from feat_fed.errors import FederationError
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.central import spent
from feat_fed.report.records import CentralSpending, RoundRecord, SiteEpsilon

_ROUNDING = 1e-6


@dataclass
class _Part:
    """A hospital's, of a run."""

    noise: dict[str, float] = field(default_factory=dict)
    """Noise multiplier by release."""
    vouched: bool = True
    """In every release, that its patients are at no other site."""


def central_spending(records: Iterable[RoundRecord], *, delta: float) -> CentralSpending:
    """Return what was spent of each hospital over the releases in which it took part."""
    parts = _parts(records)
    return CentralSpending(
        delta=delta,
        sites=tuple(_epsilon(site, parts[site], delta=delta) for site in sorted(parts)),
    )


def require_budget(records: Iterable[RoundRecord], *, config: CentralPrivacyConfig) -> None:
    """Refuse a release after which more would be spent of a hospital than the study says.

    Raises
    ------
    FederationError
        If one more would be too many.
    """
    if config.epsilon is None or config.noise_multiplier is None:
        return
    for site, part in _parts(records).items():
        history = [NoisySteps(each, sample_rate=1.0, steps=1) for each in part.noise.values()]
        history.append(NoisySteps(config.noise_multiplier, sample_rate=1.0, steps=1))
        epsilon = rdp_epsilon(history, delta=config.delta)
        if epsilon > config.epsilon * (1 + _ROUNDING):
            raise FederationError(
                f"another round with {site} would spend an epsilon of {epsilon:.4g} of it, more "
                f"than the study's privacy.central.epsilon {config.epsilon:g}: "
                f"{len(part.noise)} rounds with it were released, those that were done again "
                "among them. The weights so far are good; lower rounds to end the study here"
            )


def _parts(records: Iterable[RoundRecord]) -> dict[str, _Part]:
    parts = defaultdict[str, _Part](_Part)
    for record in records:
        if record.central is None:
            continue
        for each in record.sites:
            if each.status == "ok":
                part = parts[each.site]
                part.noise[record.central.release] = record.central.noise_multiplier
                part.vouched = part.vouched and each.patients_only_here
    return parts


def _epsilon(site: str, part: _Part, *, delta: float) -> SiteEpsilon:
    noise = part.noise.values()
    hospital = spent(noise, delta=delta, of_a_patient=False)
    patient = spent(noise, delta=delta, of_a_patient=True) if part.vouched else None
    return SiteEpsilon(
        site=site,
        releases=len(noise),
        rdp=hospital.rdp,
        prv=hospital.prv,
        patient_rdp=patient.rdp if patient else None,
        patient_prv=patient.prv if patient else None,
    )
