"""Drawing latent clips from a trained network, through the schedulers of diffusers.

Shapes: N clips, B clips of a batch, F frames, C latent channels, H and W latent pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.diffusion.loss import Model
from feat_fed.errors import ConfigError

_LEARNED = "learned_range"

Progress = Callable[[int, int], None]
"""Called with steps done and steps to do, over all batches."""


@torch.no_grad()
def sample_latents(
    model: Model,
    *,
    shape_FCHW: tuple[int, int, int, int],
    sampler: SamplerConfig,
    diffusion: DiffusionConfig,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Tensor:
    """Return one latent clip a seed, (N, F, C, H, W) in float32 on the CPU.

    A seed gives the same clip (to rounding) whatever the batch and the device: each clip has
    a generator of its own, on the CPU.

    Parameters
    ----------
    model
        In evaluation mode and on ``device``.
    shape_FCHW
        Of a clip.
    sampler
        Kind and number of steps; its ``seed`` and ``num_clips`` are the caller's to turn
        into ``seeds``.
    diffusion
        The forward process that the model was trained on.

    Raises
    ------
    ConfigError
        If the sampler has more steps than the diffusion.
    """
    if sampler.steps > diffusion.num_timesteps:
        raise ConfigError(
            f"sampler.steps is {sampler.steps}, but diffusion.num_timesteps is "
            f"{diffusion.num_timesteps}; take at most that many steps"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    clips = []
    for index, batch in enumerate(batches):

        def step_done(done: int, before: int = index * sampler.steps) -> None:
            if progress is not None:
                progress(before + done, len(batches) * sampler.steps)

        scheduler = make_scheduler(sampler, diffusion)
        clips.append(_sample_batch(model, shape_FCHW, scheduler, batch, device, step_done))
    return torch.cat(clips) if clips else torch.empty(0, *shape_FCHW)


def make_scheduler(sampler: SamplerConfig, diffusion: DiffusionConfig) -> Any:  # noqa: ANN401
    """Return the scheduler of diffusers, its timesteps set.

    ``ddpm`` takes the timesteps round(i (T-1)/(n-1)) with learned variance and ``ddim`` the
    multiples of T//n, as the published sampler does. ``dpm-solver++`` is its second-order
    multistep form.
    """
    # Slow to import, and training does without.
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
    )

    kinds: dict[str, tuple[type, dict[str, Any]]] = {
        "ddpm": (
            DDPMScheduler,
            {"variance_type": _LEARNED, "timestep_spacing": "linspace", "clip_sample": False},
        ),
        "ddim": (DDIMScheduler, {"timestep_spacing": "leading", "clip_sample": False}),
        "dpm-solver++": (DPMSolverMultistepScheduler, {}),
        "unipc": (UniPCMultistepScheduler, {}),
    }
    kind, options = kinds[sampler.kind]
    scheduler = kind(
        num_train_timesteps=diffusion.num_timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        beta_schedule="linear",
        **options,
    )
    with warnings.catch_warnings():
        # Some schedulers pass a tensor to numpy in a way that numpy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
        scheduler.set_timesteps(sampler.steps)
    return scheduler


def _sample_batch(
    model: Model,
    shape_FCHW: tuple[int, int, int, int],
    scheduler: Any,  # noqa: ANN401
    seeds: Sequence[int],
    device: torch.device | str,
    step_done: Callable[[int], None],
) -> Tensor:
    """Run the reverse process for one batch.

    Schedulers see frames as the batch, with channels second, and one generator a frame: a
    clip's frames share theirs and draw from it in order.
    """
    frames, channels = shape_FCHW[:2]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    by_frame = [generator for generator in generators for _ in range(frames)]
    noise = [torch.randn(shape_FCHW, generator=generator) for generator in generators]
    z = torch.stack(noise).to(device).flatten(0, 1) * scheduler.init_noise_sigma
    # Only DDPM reads the variance half and draws noise; others would take it for epsilon.
    ddpm = scheduler.config.get("variance_type") == _LEARNED
    extra = {"generator": by_frame} if ddpm else {}
    for done, t in enumerate(scheduler.timesteps, start=1):
        t_B = t.to(device).expand(len(seeds))
        out = model(z.unflatten(0, (len(seeds), frames)), t_B).float().flatten(0, 1)
        z = scheduler.step(out if ddpm else out[:, :channels], t, z, **extra).prev_sample
        step_done(done)
    clips: Tensor = z.unflatten(0, (len(seeds), frames)).cpu()
    return clips
