"""From the similarity of held-out patients' clips to a threshold, with its honest rate.

A held-out patient's clip was not trained on, so its similarity to the training clips is what
patients have in common. With n of them, as exchangeable with a generated clip that copies nobody,
a similarity above the k-th largest of theirs has a chance of at most k / (n + 1) (split conformal
prediction, Vovk et al., *Algorithmic Learning in a Random World*, 2005). The unit is the patient:
two clips of one patient are no two observations.

k is the largest for which the rate is within :data:`LEVEL`, and at least 1: with fewer than 19
patients the rate is higher than that, so more clips are withheld by chance, and never fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Of clips that copy nobody, the share that may be withheld by chance, where patients suffice.

The 95th percentile of held-out neighbours is also where Dar et al. (arXiv 2402.01054) take a
copy to begin."""

COPY = 0.98
"""A correlation at which two clips are one, whatever the held-out ones say: the patient may be
among those under another identifier."""


@dataclass(frozen=True)
class Calibration:
    """Of one site.

    Parameters
    ----------
    threshold
        Similarity above which a clip is near.
    patients
        n, held out.
    rank
        k: how many of them are at or above the threshold.
    """

    threshold: float
    patients: int
    rank: int

    @classmethod
    def of(cls, scores: Sequence[float], level: float = LEVEL) -> Calibration | None:
        """Take the threshold from one score a held-out patient; None without any."""
        if not scores:
            return None
        rank = rank_of(len(scores), level)
        return cls(sorted(scores, reverse=True)[rank - 1], len(scores), rank)

    @property
    def rate(self) -> float:
        """Chance of a clip that copies nobody to be above the threshold, at most."""
        return self.rank / (self.patients + 1)


def rank_of(patients: int, level: float = LEVEL) -> int:
    """Return k for n patients."""
    return max(1, math.floor(level * (patients + 1) + 1e-9))


def is_near(score: float, calibration: Calibration | None) -> bool:
    """Whether a clip of this similarity is withheld."""
    return score >= COPY or (calibration is not None and score > calibration.threshold)


def chance_of(near: int, *, of: int, patients: int) -> float:
    """Return the chance of at least so many clips above the threshold where none is a copy.

    All orders of N clips and n patients are equally likely then (without ties), so that the number
    x above the k-th largest patient is negative hypergeometric:
    C(x + k - 1, x) C(N - x + n - k, N - x) / C(N + n, N).
    """
    rank, orders = rank_of(patients), math.comb(of + patients, of)
    ways = sum(
        math.comb(x + rank - 1, x) * math.comb(of - x + patients - rank, of - x)
        for x in range(near, of + 1)
    )
    return ways / orders
