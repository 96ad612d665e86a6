"""Measuring generated clips against real ones: what the numbers are, and how they are had.

:mod:`.clips` reads videos, :mod:`.protocol` says what a number means, :mod:`.networks` computes
features, :mod:`.metrics` puts the three together. What needs torch is imported by its own name.
"""

from feat_fed.evaluate.frechet import frechet_distance
from feat_fed.evaluate.inception_score import inception_score
from feat_fed.evaluate.kernel import kernel_distance

__all__ = ["frechet_distance", "inception_score", "kernel_distance"]
