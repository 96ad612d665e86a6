from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.config import DiffusionConfig
from feat_fed.diffusion import Schedule, diffusion_loss, training_losses
from shared_files import oracle

SCHEDULE = Schedule.linear(DiffusionConfig())


def test_the_schedule_is_the_linear_one() -> None:
    alpha_bar = 1.0
    for t in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * t / 999
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        assert float(SCHEDULE.alpha_bar[t]) == pytest.approx(alpha_bar, rel=1e-12)
        if t:
            variance = beta * (1 - before) / (1 - alpha_bar)
            assert float(SCHEDULE.posterior_log_variance[t]) == pytest.approx(math.log(variance))
    assert SCHEDULE.posterior_log_variance[0] == SCHEDULE.posterior_log_variance[1]
    assert len(SCHEDULE) == 1000


def test_noise_can_be_taken_back() -> None:
    z0, noise = torch.randn(2, 3, 2, 2, 4, 4, dtype=torch.float64)
    t_B = torch.tensor([0, 500, 999])
    z_t = SCHEDULE.q_sample(z0, noise, t_B)
    torch.testing.assert_close(SCHEDULE.clean(z_t, noise, t_B), z0)


def test_the_posterior_is_bayes_rule() -> None:
    """q(z_{t-1} | z_t, z_0) is the product of two Gaussians in z_{t-1}."""
    t, z0, z_t = 400, 0.7, -0.3
    beta, before = float(SCHEDULE.beta[t]), float(SCHEDULE.alpha_bar[t - 1])
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = (math.sqrt(1 - beta) * z_t / beta + math.sqrt(before) * z0 / (1 - before)) / precision
    found = SCHEDULE.posterior_mean(
        torch.full((1, 1), z0, dtype=torch.float64),
        torch.full((1, 1), z_t, dtype=torch.float64),
        torch.tensor([t]),
    )
    assert float(found) == pytest.approx(mean)
    assert float(SCHEDULE.posterior_log_variance[t]) == pytest.approx(-math.log(precision))


def test_equals_the_published_loss() -> None:
    data = load_file(oracle("diffusion.safetensors"))
    torch.testing.assert_close(SCHEDULE.q_sample(data["x0"], data["noise"], data["t"]), data["x_t"])
    out = data["model_out"].requires_grad_()
    terms = diffusion_loss(out, data["x0"], data["x_t"], data["noise"], data["t"], SCHEDULE)
    for found, name in ((terms.mse_B, "mse"), (terms.vlb_B, "vb"), (terms.total_B, "loss")):
        torch.testing.assert_close(found.detach(), data[name], rtol=5e-6, atol=1e-7)
    terms.total_B.mean().backward()
    expected = data["grad_model_out_of_mean_loss"]
    assert (out.grad - expected).abs().max() < 2e-5 * expected.std()


def test_a_perfect_model_at_the_lower_variance_has_no_bound_left() -> None:
    torch.manual_seed(0)
    z0, noise = torch.randn(2, 2, 3, 2, 4, 4, dtype=torch.float64)

    def perfect(z_t: Tensor, t_B: Tensor) -> Tensor:
        return torch.cat([noise, torch.full_like(noise, -1.0)], dim=2)

    terms = training_losses(perfect, z0, torch.tensor([10, 900]), noise, SCHEDULE)
    assert terms.mse_B.abs().max() == 0
    assert terms.vlb_B.abs().max() < 1e-9


def test_the_bound_does_not_reach_epsilon() -> None:
    torch.manual_seed(0)
    out = torch.randn(2, 1, 4, 4, 4, requires_grad=True)
    z0, noise = torch.randn(2, 2, 1, 2, 4, 4)
    t_B = torch.tensor([0, 300])
    z_t = SCHEDULE.q_sample(z0, noise, t_B)
    diffusion_loss(out, z0, z_t, noise, t_B, SCHEDULE).vlb_B.sum().backward()
    assert not out.grad[:, :, :2].any() and out.grad[:, :, 2:].any()


def test_the_likelihood_at_zero_is_the_mass_of_a_bin() -> None:
    """With the noise known, the mean is z_0: a bin of width 2/255 around it."""
    z0 = torch.tensor([0.1, 1.0, -1.0], dtype=torch.float64).view(3, 1, 1, 1, 1)
    noise = torch.zeros_like(z0)
    t_B = torch.zeros(3, dtype=torch.long)

    def known(z_t: Tensor, t_B: Tensor) -> Tensor:
        return torch.cat([noise, torch.ones_like(noise)], dim=2)

    reach = 1 / 255 / math.sqrt(1e-4)
    centre, edge = math.erf(reach / math.sqrt(2)), 0.5 + 0.5 * math.erf(reach / math.sqrt(2))
    bits = training_losses(known, z0, t_B, noise, SCHEDULE).vlb_B
    expected = [-math.log2(centre), -math.log2(edge), -math.log2(edge)]
    assert bits.tolist() == pytest.approx(expected, abs=2e-3)


def test_half_precision_output_is_scored_in_float32() -> None:
    torch.manual_seed(0)
    out = torch.randn(1, 2, 4, 4, 4).bfloat16()
    z0, noise = torch.randn(2, 1, 2, 2, 4, 4)
    t_B = torch.tensor([3])
    z_t = SCHEDULE.q_sample(z0, noise, t_B)
    half = diffusion_loss(out, z0, z_t, noise, t_B, SCHEDULE).total_B
    assert torch.equal(half, diffusion_loss(out.float(), z0, z_t, noise, t_B, SCHEDULE).total_B)


def test_an_output_without_variance_is_refused() -> None:
    z = torch.zeros(1, 1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"2 channels.*need 4"):
        diffusion_loss(z, z, z, z, torch.zeros(1, dtype=torch.long), SCHEDULE)
