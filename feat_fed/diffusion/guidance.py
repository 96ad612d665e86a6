"""Guidance: what several passes of the network say of one latent, made into one prediction.

Classifier-free guidance (arXiv 2207.12598) leads away from the prediction without a class:
p = p_null + s (p_label - p_null). Perturbed-attention guidance (arXiv 2403.17377) leads away
from that of a network in some of whose trios no token sees another: p + s_p (p_label -
p_perturbed); it needs no classes. The factors of either sum to one and v is an affine
function of epsilon at a given z_t, so guiding v is guiding epsilon.

Shapes: B batch, F frames, C latent channels, H and W latent pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from feat_fed.config import FEATConfig, SamplerConfig
from feat_fed.diffusion.loss import Model
from feat_fed.errors import ConfigError


@runtime_checkable
class Network(Protocol):
    """A model that can be asked for a class, and to keep its tokens apart; FEAT is one."""

    config: FEATConfig

    def __call__(
        self,
        z_BFCHW: Tensor,
        t_B: Tensor,
        labels: Tensor | None = None,
        *,
        identity_trios: Collection[int] = (),
    ) -> Tensor:
        """Return (B, F, 2C, H, W): the prediction, then the variance logits."""
        ...


def guided(model: Model, sampler: SamplerConfig) -> Model:
    """Return ``model`` with the label and the guidance of ``sampler``; itself where it has none.

    The network runs once a step for the label and the null class together (a batch of 2B),
    and once more for the perturbed pass, which keeps the label. The variance logits are those
    of the label's pass.

    Raises
    ------
    ConfigError
        If the model has no such class or trio, or knows of neither.
    """
    if sampler.label is None and sampler.perturbed_scale == 0:
        return model
    if not isinstance(model, Network):
        raise ConfigError(
            "sampler.label or sampler.perturbed_scale is set, but this model knows neither labels "
            "nor trios; leave them at null and 0"
        )
    if misfit := sampler.misfit(model.config):
        raise ConfigError(misfit)
    network = model
    trios = sampler.perturbed_trios or (model.config.num_trios // 2,)

    def denoise(z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        labels_B = None
        if sampler.label is not None:
            labels_B = torch.full_like(t_B, sampler.label, dtype=torch.long)
        if labels_B is None or sampler.guidance_scale == 1:
            conditional, logits = network(z_BFCHW, t_B, labels_B).chunk(2, dim=2)
            predicted = conditional
        else:
            out, out_null = _with_null_class(network, z_BFCHW, t_B, labels_B)
            conditional, logits = out.chunk(2, dim=2)
            predicted = classifier_free(
                conditional, out_null.chunk(2, dim=2)[0], scale=sampler.guidance_scale
            )
        if sampler.perturbed_scale:
            out = network(z_BFCHW, t_B, labels_B, identity_trios=trios)
            difference = conditional - out.chunk(2, dim=2)[0]
            predicted = predicted + sampler.perturbed_scale * difference
        return torch.cat([predicted, logits], dim=2)

    return denoise


def classifier_free(conditional: Tensor, null: Tensor, *, scale: float) -> Tensor:
    """Return null + s (conditional - null), Ho & Salimans 2022 (arXiv 2207.12598).

    Their equation 6 with s = 1 + w: s = 1 is the conditional prediction, s = 0 the other.
    """
    return null + scale * (conditional - null)


def with_labels(network: Callable[..., Tensor], labels_B: Tensor | None) -> Model:
    """Return the network as a function of latents and timesteps alone."""
    if labels_B is None:
        return network
    return lambda z_BFCHW, t_B: network(z_BFCHW, t_B, labels_B)


def drop_labels(
    labels_B: Tensor, *, probability: float, null_label: int, generator: torch.Generator
) -> Tensor:
    """Return the labels with each one replaced by the null class with ``probability``.

    Training so teaches one network the two predictions that guidance combines (arXiv
    2207.12598, algorithm 1). Drawn on the generator's device, the CPU's for a step's own
    generator, so that every device drops the same labels.
    """
    draws_B = torch.rand(labels_B.shape, generator=generator, device=generator.device)
    dropped_B = (draws_B < probability).to(labels_B.device)
    return labels_B.masked_fill(dropped_B, null_label)


def _with_null_class(
    network: Network, z_BFCHW: Tensor, t_B: Tensor, labels_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs for the labels and for the null class, of one batch of 2B."""
    null_B = torch.full_like(labels_B, network.config.num_classes)
    z_2B = torch.cat([z_BFCHW, z_BFCHW])
    out, out_null = network(z_2B, torch.cat([t_B, t_B]), torch.cat([labels_B, null_B])).chunk(2)
    return out, out_null
