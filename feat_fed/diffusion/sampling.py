"""Drawing latent clips from a trained network, through the schedulers of diffusers.

Shapes: N clips, B clips of a batch, F frames, C latent channels, H and W latent pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.diffusion.guidance import guided
from feat_fed.diffusion.loss import Model
from feat_fed.diffusion.schedulers import LEARNED, make_scheduler, renewed
from feat_fed.errors import ConfigError

Progress = Callable[[int, int], None]
"""Called with steps done and steps to do, over all batches."""


@torch.no_grad()
def sample_latents(
    model: Model,
    *,
    shape_FCHW: tuple[int, int, int, int],
    sampler: SamplerConfig,
    diffusion: DiffusionConfig,
    scheduler: Any = None,  # noqa: ANN401
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
        In evaluation mode and on ``device``; a label or a guidance needs a
        :class:`~feat_fed.diffusion.guidance.Network`.
    shape_FCHW
        Of a clip.
    sampler
        Kind and number of steps, label, guidance and precision; its ``seed`` and
        ``num_clips`` are the caller's to turn into ``seeds``.
    diffusion
        The forward process that the model was trained on, and what it predicts.
    scheduler
        One of diffusers for that process, in place of the one that ``sampler.kind`` names; it
        is copied, not changed.

    Raises
    ------
    ConfigError
        If the sampler has more steps than the diffusion, or asks for a class or a trio that
        the model does not have.
    """
    if sampler.steps > diffusion.num_timesteps:
        raise ConfigError(
            f"sampler.steps is {sampler.steps}, but diffusion.num_timesteps is "
            f"{diffusion.num_timesteps}; take at most that many steps"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    denoise = _at_precision(guided(model, sampler), sampler, torch.device(device).type)
    batches = [seeds[i : i + batch_size] for i in range(0, len(seeds), batch_size)]
    clips = []
    for index, batch in enumerate(batches):

        def step_done(done: int, before: int = index * sampler.steps) -> None:
            if progress is not None:
                progress(before + done, len(batches) * sampler.steps)

        if scheduler is None:
            fresh = make_scheduler(sampler, diffusion)
        else:
            fresh = renewed(scheduler, sampler.steps)
        clips.append(_sample_batch(denoise, shape_FCHW, fresh, batch, device, step_done))
    return torch.cat(clips) if clips else torch.empty(0, *shape_FCHW)


def _at_precision(model: Model, sampler: SamplerConfig, device_type: str) -> Model:
    """Return the model under the sampler's precision.

    Autocast ends with the model: schedulers solve small linear systems, which it would round.
    """
    if sampler.precision == "fp32":
        return model

    def denoise(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return model(z_BFCHW, t_B)

    return denoise


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
    # Only DDPM reads the variance half; others would take it for epsilon.
    ddpm = scheduler.config.get("variance_type") == LEARNED
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": by_frame} if draws else {}
    for done, t in enumerate(scheduler.timesteps, start=1):
        t_B = t.to(device).expand(len(seeds))
        out = model(z.unflatten(0, (len(seeds), frames)), t_B).float().flatten(0, 1)
        z = scheduler.step(out if ddpm else out[:, :channels], t, z, **extra).prev_sample
        step_done(done)
    clips: Tensor = z.unflatten(0, (len(seeds), frames)).cpu()
    return clips
