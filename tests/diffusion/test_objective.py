"""What is predicted and how it is weighted: closed forms, and diffusers as the second opinion."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.diffusion import Model, Schedule, diffusion_loss, sample_latents, training_losses

EPSILON = Schedule.linear(DiffusionConfig())
V = Schedule.linear(DiffusionConfig(prediction="v"))
KINDS = ["ddpm", "ddim", "dpm-solver++", "unipc"]
T_B = torch.tensor([0, 1, 250, 600, 999])


def latents() -> tuple[Tensor, Tensor, Tensor]:
    """Return z_0, the noise and z_t, a clip for each of ``T_B``."""
    torch.manual_seed(0)
    z0, noise = torch.randn(2, len(T_B), 3, 2, 4, 4, dtype=torch.float64)
    return z0, noise, EPSILON.q_sample(z0, noise, T_B)


def alpha_bar_of(t_B: Tensor) -> Tensor:
    return EPSILON.alpha_bar[t_B].view(-1, 1, 1, 1, 1)


def test_v_gives_back_the_clip_and_the_noise() -> None:
    z0, noise, z_t = latents()
    v = V.target(z0, noise, T_B)
    torch.testing.assert_close(V.clean(z_t, v, T_B), z0)
    alpha_bar = alpha_bar_of(T_B)
    torch.testing.assert_close(alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * z_t, noise)


def test_v_is_what_diffusers_calls_velocity() -> None:
    z0, noise, _ = latents()
    scheduler = DDPMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    expected = scheduler.get_velocity(z0, noise, T_B)
    torch.testing.assert_close(V.target(z0, noise, T_B), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("schedule", [EPSILON, V])
def test_a_perfect_model_has_nothing_left_to_learn(schedule: Schedule) -> None:
    z0, noise, _ = latents()
    later = slice(1, None)

    def perfect(z_t: Tensor, t_B: Tensor) -> Tensor:
        predicted = schedule.target(z0, noise, T_B)[later]
        return torch.cat([predicted, torch.full_like(predicted, -1.0)], dim=2)

    terms = training_losses(perfect, z0[later], T_B[later], noise[later], schedule)
    assert terms.mse_B.abs().max() == 0
    assert terms.vlb_B.abs().max() < 1e-9


def test_the_bound_is_that_of_the_same_belief_about_the_noise() -> None:
    z0, noise, z_t = latents()
    v, logits = torch.randn(2, *z0.shape, dtype=torch.float64)
    alpha_bar = alpha_bar_of(T_B)
    epsilon = alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * z_t
    bounds = [
        diffusion_loss(torch.cat([out, logits], dim=2), z0, z_t, noise, T_B, schedule).vlb_B
        for out, schedule in ((epsilon, EPSILON), (v, V))
    ]
    torch.testing.assert_close(*bounds)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction,more", [("epsilon", 0), ("v", 1)])
def test_min_snr_weights_are_the_published_ones(
    prediction: Literal["epsilon", "v"], more: int, gamma: float
) -> None:
    config = DiffusionConfig(prediction=prediction, loss_weighting="min_snr", min_snr_gamma=gamma)
    schedule = Schedule.linear(config)
    for t in T_B.tolist():
        snr = float(schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t]))
        expected = min(snr, gamma) / (snr + more)
        assert float(schedule.loss_weight[t]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", [EPSILON, V])
def test_a_uniform_weight_is_one(schedule: Schedule) -> None:
    assert schedule.loss_weight.eq(1).all() and len(schedule.loss_weight) == 1000


def test_min_snr_weighs_the_same_mistake_alike_in_either_prediction() -> None:
    """By min(SNR, gamma) times the error of the clean clip; the bound is left as it is."""
    z0, noise, z_t = latents()
    z0_found = z0 + torch.randn_like(z0)
    alpha_bar = alpha_bar_of(T_B)
    found = (z_t - alpha_bar.sqrt() * z0_found) / (1 - alpha_bar).sqrt()
    snr_B = (alpha_bar / (1 - alpha_bar)).flatten()
    expected = snr_B.clamp(max=5.0) * (z0 - z0_found).square().flatten(1).mean(1)
    for prediction in ("epsilon", "v"):
        options = {"prediction": prediction, "loss_weighting": "min_snr"}
        schedule = Schedule.linear(DiffusionConfig.model_validate(options))
        predicted = schedule.target(z0_found, found, T_B)
        out = torch.cat([predicted, torch.zeros_like(predicted)], dim=2)
        terms = diffusion_loss(out, z0, z_t, noise, T_B, schedule)
        torch.testing.assert_close(terms.total_B - terms.vlb_B, expected, rtol=1e-7, atol=1e-9)


def test_a_schedule_takes_everything_to_another_device() -> None:
    moved = V.to("meta")
    assert moved.prediction == "v"
    assert moved.alpha_bar.device.type == moved.loss_weight.device.type == "meta"


def knows_gaussian(mean: float, deviation: float) -> Model:
    """Return the exact v network for independent normal data: the posterior mean of v."""

    def model(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        alpha_bar = alpha_bar_of(t_B)
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        surprise = (z_BFCHW - alpha_bar.sqrt() * mean) / variance
        z0 = mean + alpha_bar.sqrt() * deviation**2 * surprise
        v = alpha_bar.sqrt() * (1 - alpha_bar).sqrt() * surprise - (1 - alpha_bar).sqrt() * z0
        return torch.cat([v, torch.full_like(v, -1.0)], dim=2).float()

    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_understands_v(kind: str) -> None:
    def draw(model: Model, steps: int, shape: tuple[int, int, int, int]) -> Tensor:
        return sample_latents(
            model,
            shape_FCHW=shape,
            sampler=SamplerConfig.model_validate({"kind": kind, "steps": steps}),
            diffusion=DiffusionConfig(prediction="v"),
            seeds=range(4),
        )

    point = draw(knows_gaussian(0.5, 0.0), 20, (3, 2, 4, 4))
    torch.testing.assert_close(point, torch.full_like(point, 0.5), rtol=0, atol=1e-3)
    spread = draw(knows_gaussian(0.2, 0.4), 250, (4, 4, 16, 16))
    assert float(spread.std()) == pytest.approx(0.4, rel=0.04)
    assert float(spread.mean()) == pytest.approx(0.2, abs=0.02)
