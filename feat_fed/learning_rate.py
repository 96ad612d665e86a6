"""The learning rate as a function of the study's optimiser step, at every site alike."""

from __future__ import annotations

import math

from feat_fed.config import TrainingConfig


def learning_rate_at(training: TrainingConfig, *, step: int, total_steps: int) -> float:
    """Return the rate of the study's optimiser step ``step``, counted from 0.

    It rises linearly over ``warmup_steps``. Then it stays, or falls along half a cosine
    (Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts), which it ends on the
    study's last step at ``learning_rate_floor`` times ``learning_rate``.

    Parameters
    ----------
    total_steps
        Of the whole study: rounds times local steps.
    """
    rate, warmup = training.learning_rate, training.warmup_steps
    if step < warmup:
        return rate * ((step + 1) / warmup)
    if training.learning_rate_schedule == "constant":
        return rate
    done = min(1.0, (step - warmup) / max(1, total_steps - 1 - warmup))
    floor = training.learning_rate_floor
    return rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
