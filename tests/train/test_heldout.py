"""The held-out loss: the same noise in every round, and an estimate of what it says."""

import math

import torch
from torch import Tensor, nn

from feat_fed.config import DiffusionConfig
from feat_fed.train import heldout_loss
from feat_fed.train.heldout import stratified_timesteps


class Silent(nn.Module):
    """Predicts no noise and remembers the timesteps it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[int] = []

    def forward(self, z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        self.asked += t_B.tolist()
        return torch.cat([z_BFCHW, z_BFCHW], dim=2) * self.weight


def test_predicting_no_noise_scores_one_at_any_batch_size() -> None:
    z_NFCHW = torch.randn(8, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = [
        heldout_loss(Silent(), z_NFCHW, diffusion=DiffusionConfig(), batch_size=size)
        for size in (1, 3, 100)
    ]
    standard_error = math.sqrt(2 / (8 * 4 * 2 * 3 * 64))
    assert abs(scores[0] - 1) < 4 * standard_error
    assert max(scores) - min(scores) < 1e-6


def test_timesteps_cover_the_process_evenly_and_for_each_clip() -> None:
    t_NK = stratified_timesteps(5, 4, num_timesteps=1000)
    assert sorted(t_NK.flatten().tolist()) == list(range(25, 1000, 50))
    assert (t_NK // 250).tolist() == [[0, 1, 2, 3]] * 5
    assert stratified_timesteps(1, 1, num_timesteps=2).tolist() == [[1]]
    assert stratified_timesteps(64, 4, num_timesteps=10).unique().tolist() == list(range(10))


def test_the_model_sees_each_timestep_once_and_keeps_its_mode() -> None:
    model = Silent().train()
    heldout_loss(model, torch.zeros(3, 1, 1, 2, 2), diffusion=DiffusionConfig(), batch_size=5)
    assert model.asked == stratified_timesteps(3, 4, num_timesteps=1000).flatten().tolist()
    assert model.training
    assert model.weight.grad is None
