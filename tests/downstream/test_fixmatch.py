"""FixMatch's loss and schedule against the paper's formulas, written out."""

import math

import pytest
import torch

from feat_fed.downstream.fixmatch import averaged, ema_decay, fixmatch_loss, learning_rate


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(each) for each in logits]
    return [each / sum(weights) for each in weights]


def test_the_loss_is_equations_3_and_4_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    labelled = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    labels = [0, 2, 1, 1]
    weak = 2 * torch.randn(10, 3, generator=generator, dtype=torch.float64)
    strong = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    tau, lambda_u = 0.8, 1.7

    supervised = -sum(
        math.log(softmax(row)[label]) for row, label in zip(labelled.tolist(), labels, strict=True)
    ) / len(labels)
    unsupervised, kept = 0.0, 0
    for weak_row, strong_row in zip(weak.tolist(), strong.tolist(), strict=True):
        q = softmax(weak_row)
        if max(q) >= tau:
            kept += 1
            unsupervised -= math.log(softmax(strong_row)[q.index(max(q))]) / len(weak)
    assert 0 < kept < len(weak)

    loss = fixmatch_loss(
        labelled, torch.tensor(labels), weak, strong, threshold=tau, lambda_u=lambda_u
    )
    assert loss.labelled.item() == pytest.approx(supervised, rel=1e-12)
    assert loss.unlabelled.item() == pytest.approx(unsupervised, rel=1e-12)
    assert loss.total.item() == pytest.approx(supervised + lambda_u * unsupervised, rel=1e-12)
    assert loss.kept.item() == kept / len(weak)


def test_no_gradient_goes_through_pseudo_labels_nor_from_clips_that_do_not_count() -> None:
    weak = torch.tensor([[5.0, 0.0], [0.1, 0.0]], requires_grad=True)
    strong = torch.zeros(2, 2, requires_grad=True)
    loss = fixmatch_loss(
        torch.zeros(1, 2), torch.tensor([0]), weak, strong, threshold=0.95, lambda_u=1.0
    )
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert weak.grad is None
    assert strong.grad is not None
    assert strong.grad.tolist() == [[-0.25, 0.25], [0.0, 0.0]]


def test_the_schedule_ends_at_the_papers_cosine() -> None:
    assert learning_rate(0, steps=100, first=0.03) == 0.03
    assert learning_rate(50, steps=100, first=0.03) == pytest.approx(
        0.03 * math.cos(7 * math.pi / 32)
    )
    assert learning_rate(99, steps=100, first=0.03) > 0


def test_the_average_starts_near_the_weights_and_keeps_counters() -> None:
    assert [ema_decay(n, most=0.999) for n in (0, 90)] == [0.1, 0.91]
    assert ema_decay(10**6, most=0.999) == 0.999
    moved = averaged(torch.tensor([1.0]), torch.tensor([3.0]), decay=0.75)
    assert moved.tolist() == [1.5]
    assert averaged(torch.tensor(3), torch.tensor(4), decay=0.9).item() == 4
