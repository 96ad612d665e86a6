"""The forward process q and its posterior (Ho et al. 2020, arXiv 2006.11239).

A network predicts the noise epsilon or, alternatively, v = sqrt(alpha_bar) epsilon -
sqrt(1 - alpha_bar) z_0 (Salimans & Ho 2022, arXiv 2202.00512, section 4).

Shapes: B batch, T timesteps; latents are (B, ...). Coefficients are float64 and reach the
latents in the latents' own type.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from feat_fed.config import DiffusionConfig
from feat_fed.config.model import Prediction


@dataclass(frozen=True)
class Schedule:
    """Coefficients of each timestep, (T,) in float64, and what the network predicts."""

    beta: Tensor
    """Variance that a step adds."""
    alpha_bar: Tensor
    """Share of the clean latent's variance that is left."""
    posterior_clean: Tensor
    """Weight of z_0 in the mean of q(z_{t-1} | z_t, z_0) (equation 7)."""
    posterior_noisy: Tensor
    """Weight of z_t there."""
    posterior_log_variance: Tensor
    """Of q(z_{t-1} | z_t, z_0); at t = 0, where it vanishes, that of t = 1."""
    loss_weight: Tensor
    """Of the prediction's squared error in the loss."""
    prediction: Prediction

    @classmethod
    def linear(cls, config: DiffusionConfig) -> Schedule:
        """Return the schedule whose betas rise linearly."""
        beta = torch.linspace(
            config.beta_start, config.beta_end, config.num_timesteps, dtype=torch.float64
        )
        alpha_bar = torch.cumprod(1 - beta, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        variance = beta * (1 - before) / (1 - alpha_bar)
        return cls(
            beta=beta,
            alpha_bar=alpha_bar,
            posterior_clean=beta * before.sqrt() / (1 - alpha_bar),
            posterior_noisy=(1 - before) * (1 - beta).sqrt() / (1 - alpha_bar),
            posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
            loss_weight=_loss_weight(alpha_bar, config),
            prediction=config.prediction,
        )

    def __len__(self) -> int:
        return len(self.beta)

    def to(self, device: torch.device | str) -> Schedule:
        """Return the schedule on another device."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        moved = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return Schedule(**{**values, **moved})

    def q_sample(self, z_0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """Return z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) noise (equation 4)."""
        alpha_bar = self.alpha_bar[t_B]
        return like(alpha_bar.sqrt(), z_0) * z_0 + like((1 - alpha_bar).sqrt(), z_0) * noise

    def target(self, z_0: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """Return what a perfect network predicts of z_t = q_sample(z_0, noise, t)."""
        if self.prediction == "epsilon":
            return noise
        alpha_bar = self.alpha_bar[t_B]
        return like(alpha_bar.sqrt(), z_0) * noise - like((1 - alpha_bar).sqrt(), z_0) * z_0

    def clean(self, z_t: Tensor, predicted: Tensor, t_B: Tensor) -> Tensor:
        """Return the z_0 that belongs to z_t and the prediction, epsilon or v (not clipped)."""
        alpha_bar = self.alpha_bar[t_B]
        if self.prediction == "epsilon":
            noisy = like(alpha_bar.rsqrt(), z_t)
            return noisy * z_t - like((1 / alpha_bar - 1).sqrt(), z_t) * predicted
        return like(alpha_bar.sqrt(), z_t) * z_t - like((1 - alpha_bar).sqrt(), z_t) * predicted

    def posterior_mean(self, z_0: Tensor, z_t: Tensor, t_B: Tensor) -> Tensor:
        """Return the mean of q(z_{t-1} | z_t, z_0) (equation 7)."""
        clean, noisy = self.posterior_clean[t_B], self.posterior_noisy[t_B]
        return like(clean, z_0) * z_0 + like(noisy, z_t) * z_t


def _loss_weight(alpha_bar: Tensor, config: DiffusionConfig) -> Tensor:
    """Return ones, or the Min-SNR-gamma weights (Hang et al. 2023, arXiv 2303.09556).

    They weigh the error of z_0 by min(SNR, gamma). An error of epsilon is SNR times that of
    z_0, and an error of v is SNR + 1 times that.
    """
    if config.loss_weighting == "uniform":
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    error_of_clean = snr if config.prediction == "epsilon" else snr + 1
    return snr.clamp(max=config.min_snr_gamma) / error_of_clean


def like(value_B: Tensor, z: Tensor) -> Tensor:
    """Return one value a clip in the latents' type, shaped to broadcast over ``z`` (B, ...)."""
    return value_B.to(z.dtype).view(-1, *[1] * (z.ndim - 1))
