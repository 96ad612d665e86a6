"""A site's class reaches the network, in training and in scoring."""

import pytest
import torch

from feat_fed.config import ComputeConfig, DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.model import FEAT
from feat_fed.train import RoundHooks, RoundJob, evaluate_round, train_round, weights_of

MODEL = FEATConfig(in_channels=2, hidden_size=8, num_trios=1, num_heads=2, num_classes=2)


class Clips:
    num_clips = 2

    def batch(self, seed: int, step: int, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed + step)
        return torch.randn(batch_size, 2, 2, 4, 4, generator=generator)

    def fixed(self, num_clips: int) -> torch.Tensor:
        return self.batch(1, 1, num_clips)


def job(label: int | None, dropout: float = 0.0) -> RoundJob:
    torch.manual_seed(0)
    model = FEAT(MODEL)
    for parameter in model.parameters():  # its gates are zero at the start
        parameter.data += 0.05 * torch.randn_like(parameter)
    training = TrainingConfig(
        engine="torch", local_steps=3, batch_size=2, learning_rate=0.01, label_dropout=dropout
    )
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig(),
        training=training,
        weights=weights_of(model),
        seed=1,
        first_step=0,
        total_steps=100,
        compute=ComputeConfig(device="cpu", threads=1),
        label=label,
    )


def moved(label: int | None, dropout: float = 0.0) -> list[bool]:
    """Which rows of the class embedding a round changes: class 0, class 1, no class."""
    task = job(label, dropout)
    result = train_round(task, train=Clips(), heldout=None, hooks=RoundHooks())
    name = "label.weight"
    change = (result.weights[name] - task.weights[name]).abs().sum(1)
    return [bool(each > 0) for each in change]


def test_a_round_trains_its_sites_class() -> None:
    assert moved(0) == [True, False, False]
    assert moved(1) == [False, True, False]
    assert moved(None) == [False, False, True]


def test_dropped_labels_train_the_null_class() -> None:
    assert moved(1, dropout=0.5) == [False, True, True]


def test_the_score_depends_on_the_class() -> None:
    losses = {evaluate_round(job(label), heldout=Clips()) for label in (0, 1, None)}
    assert len(losses) == 3


def test_a_class_that_the_model_lacks_is_an_error() -> None:
    with pytest.raises(ValueError, match="label"):
        evaluate_round(job(3), heldout=Clips())
