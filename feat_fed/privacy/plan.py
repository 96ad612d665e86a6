"""Epsilon against what can be chosen: steps, noise, patients of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from feat_fed.privacy.accounting import NoisySteps, prv_epsilon, rdp_epsilon
from feat_fed.privacy.claims import Claim

_SHARES_OF_TIME = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_SHARES_OF_NOISE = (0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
_SHARES_OF_PATIENTS = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Point:
    """Epsilon, bounded twice."""

    at: float
    rdp: float
    prv: float | None


@dataclass(frozen=True)
class Curve:
    """How epsilon depends on one choice, the others as they are."""

    label: str
    marks: tuple[float, ...]
    chosen: float
    """One of the marks."""
    delta: float
    spending: Callable[[float], NoisySteps]

    def points(self) -> list[Point]:
        """Return epsilon at the marks; takes some tenths of a second each."""
        return [
            Point(
                at=each,
                rdp=rdp_epsilon([self.spending(each)], delta=self.delta),
                prv=prv_epsilon([self.spending(each)], delta=self.delta),
            )
            for each in self.marks
        ]

    def line(self, number: int = 25) -> list[tuple[float, float]]:
        """Return choices and epsilon by RDP, in equal ratios from the first mark to the last."""
        first, last = self.marks[0], self.marks[-1]
        ats = [first * (last / first) ** (index / (number - 1)) for index in range(number)]
        return [(at, rdp_epsilon([self.spending(at)], delta=self.delta)) for at in ats]


def curves(claim: Claim, *, patients: int | None = None) -> Iterator[Curve]:
    """Yield a claim's epsilon against time, against noise and against the patients of a site.

    Parameters
    ----------
    patients
        Of a site. More of them are sampled more seldom, so that a step takes as many as now.
    """
    kind = claim.spending
    each_round = kind.steps / claim.rounds
    rounds = sorted({max(1.0, float(round(claim.rounds * each))) for each in _SHARES_OF_TIME})
    yield Curve(
        label="Steps" if each_round == 1 and claim.unit == "patient" else "Rounds",
        marks=tuple(rounds),
        chosen=float(claim.rounds),
        delta=claim.delta,
        spending=lambda at: replace(kind, steps=max(1, round(at * each_round))),
    )
    yield Curve(
        label="Noise multiplier",
        marks=tuple(kind.noise_multiplier * each for each in _SHARES_OF_NOISE),
        chosen=kind.noise_multiplier,
        delta=claim.delta,
        spending=lambda at: replace(kind, noise_multiplier=at),
    )
    if patients is not None and claim.unit == "patient":
        taken = kind.sample_rate * patients
        numbers = sorted({max(1.0, float(round(patients * e))) for e in _SHARES_OF_PATIENTS})
        yield Curve(
            label="Patients",
            marks=tuple(numbers),
            chosen=float(patients),
            delta=claim.delta,
            spending=lambda at: replace(kind, sample_rate=min(1.0, taken / at)),
        )
