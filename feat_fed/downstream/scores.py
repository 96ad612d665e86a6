"""What a classifier's answers are worth, and how far the test set bounds that.

Legend: S seeds, N test clips, K classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MetricName = Literal["f1", "f1_macro", "accuracy", "auroc"]
"""``f1``: of the positive class, where there are two classes. ``f1_macro``: the mean of all
classes' that occur in the labels or the answers. ``auroc``: of the positive class, or the mean over
the classes that occur, one against the rest."""

METRICS: tuple[MetricName, ...] = get_args(MetricName)


def confusion_KK(labels_N: Ints, answers_N: Ints, num_classes: int) -> Ints:
    """Return counts: a row for each true class, a column for each answer."""
    pairs = labels_N * num_classes + answers_N
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(
    labels_N: Ints, probabilities_NK: Floats, *, positive: int, draws: Sequence[Ints] | None = None
) -> dict[MetricName, Floats]:
    """Return each metric of the test set, or of draws from it.

    Parameters
    ----------
    positive
        The class whose F1 and AUROC are meant, where there are two.
    draws
        Indices of clips, for each resample; the test set itself, once, if unset.

    Returns
    -------
    dict
        (R,) a metric. AUROC is NaN in a resample with one class only.
    """
    num_classes = probabilities_NK.shape[1]
    draws = [np.arange(len(labels_N))] if draws is None else draws
    answers_N = probabilities_NK.argmax(axis=1)
    tables = np.stack(
        [confusion_KK(labels_N[draw], answers_N[draw], num_classes) for draw in draws]
    )
    f1_RK, occurs_RK = _f1(tables)
    values: dict[MetricName, Floats] = {
        "f1_macro": (f1_RK * occurs_RK).sum(axis=1) / occurs_RK.sum(axis=1),
        "accuracy": np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2)),
        "auroc": np.array(
            [_auroc(labels_N[draw], probabilities_NK[draw], positive) for draw in draws]
        ),
    }
    if num_classes == 2:
        values["f1"] = f1_RK[:, positive]
    return values


def auroc(is_class_N: NDArray[np.bool_], score_N: Floats) -> float:
    """Return the probability that a clip of the class scores above another, ties for a half.

    The Mann-Whitney statistic; NaN where one side is empty.
    """
    positives = int(is_class_N.sum())
    negatives = len(is_class_N) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = rankdata(score_N)[is_class_N].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def patient_draws(patients: Sequence[str], *, resamples: int, seed: int) -> list[Ints]:
    """Draw test sets with replacement, by whole patients (the cluster bootstrap).

    Returns
    -------
    list
        Indices of clips for each resample; as many patients as there are.
    """
    names, of_clip = np.unique(np.array(patients), return_inverse=True)
    clips_of = [np.flatnonzero(of_clip == number) for number in range(len(names))]
    rng = np.random.default_rng((seed, 3))
    chosen = rng.integers(0, len(names), size=(resamples, len(names)))
    return [np.concatenate([clips_of[number] for number in row]) for row in chosen]


def _f1(tables_RKK: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Return 2 TP / (2 TP + FP + FN) a class, 0 where undefined, and where it is defined."""
    right = np.diagonal(tables_RKK, axis1=1, axis2=2)
    either = tables_RKK.sum(axis=1) + tables_RKK.sum(axis=2)
    return 2 * right / np.maximum(either, 1), either > 0


def _auroc(labels_N: Ints, probabilities_NK: Floats, positive: int) -> float:
    num_classes = probabilities_NK.shape[1]
    classes = [positive] if num_classes == 2 else range(num_classes)
    each = [auroc(labels_N == name, probabilities_NK[:, name]) for name in classes]
    known = [value for value in each if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
