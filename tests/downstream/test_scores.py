"""Metrics against their definitions, written out."""

import itertools

import numpy as np
import pytest

from feat_fed.downstream.results import Answers, arms_of
from feat_fed.downstream.scores import auroc, confusion_KK, patient_draws, scores

RNG = np.random.default_rng(0)
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.6, 0.2, 0.5, 0.3, 0.9, 0.5, 0.4])
PROBABILITIES = np.stack([1 - SCORES, SCORES], axis=1)


def test_f1_accuracy_and_confusion_by_hand() -> None:
    """Answers: 0.6 is a false alarm, 0.5 ties go to class 0, so two of class 1 are missed."""
    found = scores(LABELS, PROBABILITIES, positive=1)
    tp, fp, fn, tn = 1, 1, 2, 4
    f1_of_1, f1_of_0 = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fn + fp)
    assert found["f1"][0] == pytest.approx(f1_of_1)
    assert found["f1_macro"][0] == pytest.approx((f1_of_0 + f1_of_1) / 2)
    assert found["accuracy"][0] == 5 / 8
    table = confusion_KK(LABELS, PROBABILITIES.argmax(axis=1), 2)
    assert table.tolist() == [[tn, fp], [fn, tp]]
    other = scores(LABELS, PROBABILITIES, positive=0)
    assert other["f1"][0] == pytest.approx(f1_of_0)
    assert other["auroc"][0] == found["auroc"][0]


def test_auroc_is_the_share_of_pairs_in_order_with_ties_for_a_half() -> None:
    is_class, score = RNG.random(40) < 0.3, RNG.integers(0, 9, 40).astype(float)
    pairs = [
        1.0 if above > below else 0.5 if above == below else 0.0
        for above, below in itertools.product(score[is_class], score[~is_class])
    ]
    assert auroc(is_class, score) == pytest.approx(sum(pairs) / len(pairs))
    assert np.isnan(auroc(np.ones(3, dtype=bool), score[:3]))


def test_three_classes_have_no_single_f1_and_auroc_is_one_against_the_rest() -> None:
    labels = RNG.integers(0, 3, 30)
    probabilities = RNG.dirichlet(np.ones(3), 30)
    found = scores(labels, probabilities, positive=2)
    assert "f1" not in found
    each = [auroc(labels == name, probabilities[:, name]) for name in range(3)]
    assert found["auroc"][0] == pytest.approx(np.mean(each))


def test_macro_f1_leaves_out_a_class_that_occurs_nowhere() -> None:
    labels = np.array([0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    assert scores(labels, probabilities, positive=2)["f1_macro"][0] == 1.0


def test_resamples_are_of_whole_patients() -> None:
    patients = ["a", "b", "a", "c", "b", "a"]
    draws = patient_draws(patients, resamples=50, seed=0)
    for draw in draws:
        counts = np.bincount(draw, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len({tuple(draw) for draw in draws}) > 5


def answers(arm: str, seed: int, probabilities: np.ndarray) -> Answers:
    return Answers(
        arm=arm,  # type: ignore[arg-type]
        num_labelled=4,
        num_unlabelled=0,
        seed=seed,
        probabilities_NK=probabilities,
        loss=0.5,
        kept=None,
        seconds=1.0,
    )


def test_arms_are_compared_on_the_same_test_sets() -> None:
    right = np.eye(2)[LABELS]
    patients = [str(number) for number in range(8)]
    given = [
        answers("supervised", 0, PROBABILITIES),
        answers("generated", 0, right),
        answers("supervised", 1, right),
        answers("generated", 1, right),
    ]
    weak, strong = arms_of(given, LABELS, patients, positive=1, resamples=200)
    assert weak.gain is None
    assert strong.gain is not None
    accuracy = weak.metrics["accuracy"]
    assert accuracy.mean == (5 / 8 + 1) / 2
    assert accuracy.sd == pytest.approx(np.std([5 / 8, 1], ddof=1))
    assert accuracy.low <= accuracy.mean <= accuracy.high
    assert strong.metrics["f1"].model_dump() == {"mean": 1.0, "sd": 0.0, "low": 1.0, "high": 1.0}
    gain = strong.gain["accuracy"]
    assert gain.mean == pytest.approx(1 - accuracy.mean)
    assert (gain.low, gain.high) == pytest.approx((1 - accuracy.high, 1 - accuracy.low))
    assert weak.seeds[0].confusion == ((4, 1), (2, 1))


def test_a_stopped_experiment_compares_the_seeds_that_both_arms_have() -> None:
    given = [
        answers("supervised", 0, PROBABILITIES),
        answers("generated", 0, np.eye(2)[LABELS]),
        answers("supervised", 1, PROBABILITIES),
    ]
    patients = [str(number) for number in range(8)]
    first, second = arms_of(given, LABELS, patients, positive=1, resamples=20)
    assert (len(first.seeds), len(second.seeds)) == (2, 1)
    assert second.gain is not None
    assert second.gain["accuracy"].mean == pytest.approx(3 / 8)
    assert second.gain["accuracy"].sd is None
