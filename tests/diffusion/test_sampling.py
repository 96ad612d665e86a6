from __future__ import annotations

from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.diffusion import Schedule, make_scheduler, sample_latents
from feat_fed.errors import ConfigError
from shared_files import oracle

DIFFUSION = DiffusionConfig()
ALPHA_BAR = Schedule.linear(DIFFUSION).alpha_bar.float()
Kind = Literal["ddpm", "ddim", "dpm-solver++", "unipc"]
KINDS: list[Kind] = ["ddpm", "ddim", "dpm-solver++", "unipc"]
SHAPE = (3, 2, 4, 4)


def knows_one_clip(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
    """The exact network for data that are one clip of 0.5 everywhere."""
    alpha_bar = ALPHA_BAR[t_B].view(-1, 1, 1, 1, 1)
    epsilon = (z_BFCHW - alpha_bar.sqrt() * 0.5) / (1 - alpha_bar).sqrt()
    return torch.cat([epsilon, torch.full_like(epsilon, -1.0)], dim=2)


def knows_gaussian(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
    """The exact network for independent normal data of standard deviation 0.4."""
    alpha_bar = ALPHA_BAR[t_B].view(-1, 1, 1, 1, 1)
    epsilon = (1 - alpha_bar).sqrt() * z_BFCHW / (0.16 * alpha_bar + 1 - alpha_bar)
    return torch.cat([epsilon, torch.full_like(epsilon, -1.0)], dim=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_finds_the_only_clip(kind: Kind) -> None:
    z = sample_latents(
        knows_one_clip,
        shape_FCHW=SHAPE,
        sampler=SamplerConfig(kind=kind, steps=20),
        diffusion=DIFFUSION,
        seeds=[0, 1],
    )
    torch.testing.assert_close(z, torch.full((2, *SHAPE), 0.5), rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_finds_the_spread(kind: Kind) -> None:
    z = sample_latents(
        knows_gaussian,
        shape_FCHW=(4, 4, 16, 16),
        sampler=SamplerConfig(kind=kind, steps=250),
        diffusion=DIFFUSION,
        seeds=range(4),
    )
    assert float(z.std()) == pytest.approx(0.4, rel=0.04)
    assert abs(float(z.mean())) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_its_clip_whatever_the_batch(kind: Kind) -> None:
    def draw(seeds: list[int], batch_size: int) -> Tensor:
        return sample_latents(
            knows_gaussian,
            shape_FCHW=SHAPE,
            sampler=SamplerConfig(kind=kind, steps=5),
            diffusion=DIFFUSION,
            seeds=seeds,
            batch_size=batch_size,
        )

    together, alone = draw([3, 4, 5], 3), draw([5, 3], 1)
    torch.testing.assert_close(together[[2, 0]], alone)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("steps", [250, 50])
def test_ddpm_steps_are_the_published_ones(steps: int) -> None:
    data = load_file(oracle("diffusion.safetensors"))
    scheduler = make_scheduler(SamplerConfig(kind="ddpm", steps=steps), DIFFUSION)
    timesteps = scheduler.timesteps.flip(0)
    assert torch.equal(timesteps, data[f"map_{steps}"])
    for clip, i in enumerate(data[f"i_{steps}"].tolist()):
        z, out = data[f"x_{steps}"][clip], data["model_out"][clip]
        generator = torch.Generator().manual_seed(0)
        found = scheduler.step(out, timesteps[i], z, generator=generator).prev_sample
        noise = torch.randn(z.shape, generator=generator.manual_seed(0)) if i else 0
        deviation = torch.exp(data[f"logvar_{steps}"][clip] / 2)
        expected = data[f"mean_{steps}"][clip] + deviation * noise
        torch.testing.assert_close(found, expected, rtol=0, atol=8e-5)


@pytest.mark.parametrize("steps", [250, 50])
def test_ddim_steps_are_the_published_ones(steps: int) -> None:
    """The recorded steps go between neighbours of DDPM's map, so each has its own stride."""
    data = load_file(oracle("diffusion.safetensors"))
    timesteps = data[f"map_{steps}"].tolist()
    for clip, i in enumerate(data[f"i_{steps}"].tolist()):
        stride = timesteps[i] - timesteps[i - 1] if i else 1
        sampler = SamplerConfig(kind="ddim", steps=1000 // stride)
        assert 1000 // sampler.steps == stride
        z, epsilon = data[f"x_{steps}"][clip], data["model_out"][clip][:, :4]
        found = make_scheduler(sampler, DIFFUSION).step(epsilon, timesteps[i], z).prev_sample
        torch.testing.assert_close(found, data[f"ddim_prev_{steps}"][clip], rtol=0, atol=8e-5)


def test_ddim_timesteps_are_the_published_ones() -> None:
    scheduler = make_scheduler(SamplerConfig(kind="ddim", steps=50), DIFFUSION)
    assert scheduler.timesteps.tolist() == list(range(980, -1, -20))


def test_progress_counts_steps_over_all_batches() -> None:
    seen: list[tuple[int, int]] = []
    sample_latents(
        knows_one_clip,
        shape_FCHW=SHAPE,
        sampler=SamplerConfig(steps=3),
        diffusion=DIFFUSION,
        seeds=range(3),
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 6) for done in range(1, 7)]


def test_no_seed_gives_no_clip() -> None:
    z = sample_latents(
        knows_one_clip,
        shape_FCHW=SHAPE,
        sampler=SamplerConfig(steps=2),
        diffusion=DIFFUSION,
        seeds=[],
    )
    assert z.shape == (0, *SHAPE)


def test_more_steps_than_the_diffusion_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampler.steps is 50.*num_timesteps is 20"):
        sample_latents(
            knows_one_clip,
            shape_FCHW=SHAPE,
            sampler=SamplerConfig(steps=50),
            diffusion=DiffusionConfig(num_timesteps=20),
            seeds=[0],
        )
