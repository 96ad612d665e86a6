"""The training loss: squared error plus the variational bound that teaches the variance.

Nichol & Dhariwal 2021 (arXiv 2102.09672): the network predicts the noise epsilon (or v, see
:mod:`feat_fed.diffusion.schedule`) and, in the log domain, where the variance lies between
its two bounds. The bound's term is in bits per dimension, not rescaled, and does not reach
the prediction.

Shapes: B batch, F frames, C latent channels, H and W latent pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from feat_fed.diffusion.schedule import Schedule, like

_NATS_PER_BIT = math.log(2)
_HALF_BIN = 1 / 255
"""Half the width of the bins in which data of [-1, 1] are thought to be counted."""
_EDGE = 0.999
_LEAST_PROBABILITY = 1e-12

Model = Callable[[Tensor, Tensor], Tensor]
"""(z_BFCHW, t_B) to (B, F, 2C, H, W)."""


@dataclass(frozen=True)
class LossTerms:
    """One value a clip, (B,)."""

    mse_B: Tensor
    """Mean squared error of the prediction, not weighted."""
    vlb_B: Tensor
    """The bound's term at t, bits per dimension."""
    total_B: Tensor
    """What is minimised: the weighted error and the bound."""


def training_losses(
    model: Model, z0_BFCHW: Tensor, t_B: Tensor, noise: Tensor, schedule: Schedule
) -> LossTerms:
    """Noise the clips to timesteps ``t_B`` and score the model on them.

    The schedule lies on the latents' device; the loss is computed in float32 or better.
    """
    z_t = schedule.q_sample(z0_BFCHW, noise, t_B)
    return diffusion_loss(model(z_t, t_B), z0_BFCHW, z_t, noise, t_B, schedule)


def diffusion_loss(
    model_out_BF2CHW: Tensor,
    z0: Tensor,
    z_t: Tensor,
    noise: Tensor,
    t_B: Tensor,
    schedule: Schedule,
) -> LossTerms:
    """Return squared error, bound and what is minimised for each clip.

    Parameters
    ----------
    model_out_BF2CHW
        The prediction in the first C channels, variance logits in [-1, 1] in the rest.
    z0, z_t, noise
        Clean and noisy latents (B, F, C, H, W) and the noise between them.
    t_B
        Timesteps from 0.
    schedule
        The forward process, what is predicted of it and the loss weights, on the latents'
        device.

    Raises
    ------
    ValueError
        If the model's output does not have twice the latents' channels.
    """
    channels = z0.shape[2]
    if model_out_BF2CHW.shape[2] != 2 * channels:
        raise ValueError(
            f"the model's output has {model_out_BF2CHW.shape[2]} channels; prediction and variance "
            f"of {channels} channels need {2 * channels}"
        )
    out = model_out_BF2CHW.to(torch.promote_types(z0.dtype, torch.float32))
    predicted, logits = out.chunk(2, dim=2)
    mse_B = _mean_by_clip((schedule.target(z0, noise, t_B) - predicted) ** 2)
    vlb_B = _bound_bits(predicted.detach(), logits, z0, z_t, t_B, schedule)
    return LossTerms(mse_B, vlb_B, like(schedule.loss_weight[t_B], mse_B) * mse_B + vlb_B)


def _bound_bits(
    predicted: Tensor, logits: Tensor, z0: Tensor, z_t: Tensor, t_B: Tensor, schedule: Schedule
) -> Tensor:
    """Return KL(q || p) of the step from z_t, and at t = 0 the likelihood of z_0; bits, (B,)."""
    least = like(schedule.posterior_log_variance[t_B], predicted)
    most = like(schedule.beta.log()[t_B], predicted)
    share = (logits + 1) / 2
    log_variance = share * most + (1 - share) * least
    mean = schedule.posterior_mean(schedule.clean(z_t, predicted, t_B), z_t, t_B)
    true_mean = schedule.posterior_mean(z0, z_t, t_B)
    kl_B = _mean_by_clip(_gaussian_kl(true_mean, least, mean, log_variance))
    nll_B = _mean_by_clip(-_discretised_log_likelihood(z0, mean, log_variance / 2))
    return torch.where(t_B == 0, nll_B, kl_B) / _NATS_PER_BIT


def _gaussian_kl(
    mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor
) -> Tensor:
    """Return KL(N1 || N2) of each element, in nats."""
    log_ratio = log_variance2 - log_variance1
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_ratio - 1 + torch.exp(-log_ratio) + distance)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-probability of each element's bin (arXiv 2006.11239, equation 13)."""
    inverse_scale = torch.exp(-log_scale)
    upper = _normal_cdf(inverse_scale * (x - mean + _HALF_BIN))
    lower = _normal_cdf(inverse_scale * (x - mean - _HALF_BIN))
    probability = torch.where(x < -_EDGE, upper, torch.where(x > _EDGE, 1 - lower, upper - lower))
    return probability.clamp_min(_LEAST_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Return the tanh form of the normal distribution function that the published loss has."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mean_by_clip(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)
