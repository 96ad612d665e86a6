"""The study's choice of prediction and loss weight reaches a round at a site."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from feat_fed.config import ComputeConfig, DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.model import FEAT
from feat_fed.train import (
    RoundHooks,
    RoundJob,
    RoundResult,
    derive_seed,
    evaluate_round,
    train_round,
    weights_of,
)

MODEL = FEATConfig(in_channels=2, hidden_size=8, num_trios=1, num_heads=1, mlp_ratio=1)


class Stripes:
    """Clips that are one pattern, brighter or darker."""

    num_clips = 8

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, step))
        brightness = 1 + 0.2 * torch.randn(batch_size, 1, 1, 1, 1, generator=generator)
        return brightness * torch.tensor([1.0, -1.0]).repeat(2, 2, 4, 2)

    def fixed(self, num_clips: int) -> Tensor:
        return self.batch(1, 0, min(num_clips, 4))


def job_of(steps: int, **diffusion: object) -> RoundJob:
    torch.manual_seed(0)
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig.model_validate(diffusion),
        training=TrainingConfig(
            engine="torch", local_steps=steps, batch_size=8, learning_rate=1e-2
        ),
        weights=weights_of(FEAT(MODEL)),
        compute=ComputeConfig(device="cpu", threads=1),
        seed=7,
        first_step=0,
        total_steps=100,
    )


def trained(job: RoundJob) -> RoundResult:
    return train_round(job, train=Stripes(), heldout=Stripes(), hooks=RoundHooks())


def test_each_choice_is_another_loss() -> None:
    choices: list[dict[str, object]] = [
        {},
        {"prediction": "v"},
        {"loss_weighting": "min_snr", "min_snr_gamma": 0.1},
        {"prediction": "v", "loss_weighting": "min_snr"},
        {"prediction": "v", "loss_weighting": "min_snr", "min_snr_gamma": 0.1},
    ]
    losses = [trained(job_of(1, **each)).train_loss for each in choices]
    assert len(set(losses)) == len(choices)


@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_a_network_learns_v(weighting: str) -> None:
    job = job_of(60, prediction="v", loss_weighting=weighting)
    result = trained(job)
    assert result.heldout_loss is not None
    after = evaluate_round(replace(job, weights=result.weights), heldout=Stripes())
    assert after < 0.5 * result.heldout_loss
