"""One number that falls as the model learns: the loss on held-out patients.

Shapes: N clips, K timesteps a clip, B rows of a batch, F frames, C channels, H x W latent pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from feat_fed.config import DiffusionConfig
from feat_fed.diffusion import Schedule, training_losses, with_labels
from feat_fed.errors import TrainingError
from feat_fed.train.peers import ALONE, Peers
from feat_fed.train.seeds import derive_seed

TIMESTEPS_PER_CLIP = 4


def heldout_loss(
    model: nn.Module,
    z_NFCHW: Tensor,
    *,
    diffusion: DiffusionConfig,
    batch_size: int,
    label: int | None = None,
    peers: Peers = ALONE,
    alive: Callable[[], None] = lambda: None,
) -> float:
    """Return the mean squared error of the predicted noise (or v) over held-out clips.

    An estimate of the same expectation as the training loss's first term (Ho et al.,
    arXiv 2006.11239, equation 14), with little variance: timesteps are the midpoints of N K
    equal strata of [0, T), dealt out so that each clip sees K of them spread over the whole
    range, and a clip's noise depends on its place and timestep alone. The same clips thus get
    the same timesteps and noise in every round, at every batch size and with every engine.
    Predicting no noise at all scores 1. The variational term is left out: a few small
    timesteps rule it, and it rises and falls with the learned variance while samples improve.

    Parameters
    ----------
    model
        Maps ``(z_BFCHW, t_B)`` to the predicted noise and variance; on any device.
    z_NFCHW
        Latents of the held-out clips, N >= 1.
    diffusion
        The process that the model is trained for.
    batch_size
        Noised clips at a time; changes the result by rounding only.
    label
        Class of the clips; None for a model without classes.
    peers
        Who share the clips out among them; changes the result by rounding only.
    alive
        Called after each batch.

    Raises
    ------
    TrainingError
        If the loss is not finite.
    """
    device = next(model.parameters()).device
    schedule = Schedule.linear(diffusion).to(device)
    t_NK = stratified_timesteps(
        len(z_NFCHW), TIMESTEPS_PER_CLIP, num_timesteps=diffusion.num_timesteps
    )
    t_R = t_NK.flatten()
    total = 0.0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        share = peers.share(len(t_R))
        for first in range(share.start, share.stop, batch_size):
            rows = torch.arange(first, min(first + batch_size, share.stop))
            z_BFCHW = z_NFCHW[rows // TIMESTEPS_PER_CLIP].float()
            noise_BFCHW = torch.stack([_noise(int(row), z_BFCHW.shape[1:]) for row in rows])
            t_B = t_R[rows].to(device)
            network = with_labels(model, None if label is None else torch.full_like(t_B, label))
            losses = training_losses(
                network, z_BFCHW.to(device), t_B, noise_BFCHW.to(device), schedule
            )
            total += float(losses.mse_B.double().sum())
            alive()
    model.train(was_training)
    mean = peers.sum([total])[0] / len(t_R)
    if not math.isfinite(mean):
        raise TrainingError(
            f"the held-out loss of the received weights is {mean}; lower training.learning_rate "
            "and resume the study from an earlier round"
        )
    return mean


def stratified_timesteps(num_clips: int, per_clip: int, *, num_timesteps: int) -> Tensor:
    """Return t_NK: midpoints of N K strata of [0, T); row n holds strata n, n+N, n+2N, ..."""
    strata_KN = torch.arange(num_clips * per_clip).view(per_clip, num_clips)
    midpoints_KN = (2 * strata_KN + 1) * num_timesteps // (2 * num_clips * per_clip)
    return midpoints_KN.T.contiguous()


def _noise(row: int, shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("held-out noise", row))
    return torch.randn(shape, generator=generator)
