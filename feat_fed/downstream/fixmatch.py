"""FixMatch's loss (arXiv 2001.07685, algorithm 1) and schedule.

Legend: B labelled clips, U unlabelled ones (mu B), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor


@dataclass(frozen=True)
class FixMatchLoss:
    """The loss and its parts, scalars.

    Parameters
    ----------
    total
        ``labelled + lambda_u * unlabelled``.
    kept
        Share of the unlabelled clips whose pseudo-label counts.
    """

    total: Tensor
    labelled: Tensor
    unlabelled: Tensor
    kept: Tensor


def fixmatch_loss(
    labelled_BK: Tensor,
    labels_B: Tensor,
    weak_UK: Tensor,
    strong_UK: Tensor,
    *,
    threshold: float,
    lambda_u: float,
) -> FixMatchLoss:
    """Return the loss of equations 3 and 4.

    The cross-entropy of weakly augmented labelled clips, and of strongly augmented unlabelled
    ones towards the class that the network gives their weakly augmented form, where it gives it
    ``threshold`` or more; those below count as zeros in the mean. No gradient goes through the
    pseudo-labels.

    Parameters
    ----------
    labelled_BK, weak_UK, strong_UK
        Logits.
    labels_B
        Class numbers, int64.
    """
    labelled = nnf.cross_entropy(labelled_BK, labels_B)
    confidence_U, pseudo_U = weak_UK.detach().softmax(dim=1).max(dim=1)
    counts_U = (confidence_U >= threshold).to(strong_UK.dtype)
    unlabelled = (counts_U * nnf.cross_entropy(strong_UK, pseudo_U, reduction="none")).mean()
    return FixMatchLoss(
        labelled + lambda_u * unlabelled, labelled.detach(), unlabelled.detach(), counts_U.mean()
    )


def learning_rate(step: int, *, steps: int, first: float) -> float:
    """Return ``first * cos(7 pi step / (16 steps))`` of section 2.4; step 0 is the first."""
    return first * math.cos(7 * math.pi * step / (16 * steps))


def ema_decay(updates: int, *, most: float) -> float:
    """Return the decay after ``updates`` updates: (1 + n) / (10 + n), up to ``most``.

    The warm-up of ``tf.train.ExponentialMovingAverage(num_updates=)``: without it, a few hundred
    steps would leave most of the average at the initial weights.
    """
    return min(most, (1 + updates) / (10 + updates))


def averaged(average: Tensor, weights: Tensor, *, decay: float) -> Tensor:
    """Return ``decay * average + (1 - decay) * weights``; counters are copied."""
    if not average.is_floating_point():
        return weights
    return torch.lerp(weights, average, decay)
