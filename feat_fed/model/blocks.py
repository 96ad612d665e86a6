"""FEAT's blocks: a token mixer and a feed-forward, both modulated by the timestep (adaLN).

Shapes: B batch, F frames, H and W token rows and columns of a frame, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from feat_fed.config import FEATConfig
from feat_fed.model.attention import ChannelAttention, SpatialWKV, TemporalWKV
from feat_fed.model.layers import GatedFeedForward, ScaledSiLU, xavier_linear, zero_linear


class _Block(nn.Module):
    """x + g_1 mixer(adaLN(x)), then x + g_2 feed_forward(adaLN(x)).

    ``adaln`` makes a shift, a scale and a gate for each branch, once a clip; the norms' own
    weight and bias are folded into them.
    """

    def __init__(self, config: FEATConfig, mixer: nn.Module, adaln: nn.Sequential) -> None:
        super().__init__()
        C = config.hidden_size
        self.adaln = adaln
        self.norm1 = nn.LayerNorm(C)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(C)
        self.feed_forward = GatedFeedForward(C, feed_forward_width(config))

    def _gains(self) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, 1.0

    def forward(self, x_BFHWC: Tensor, time_BC: Tensor, *to_mixer: Tensor | bool) -> Tensor:
        """Return the tokens after both branches; ``to_mixer`` goes to the mixer."""
        modulation = self.adaln(time_BC)[:, None, None, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, -1)
        gain1, gain2 = self._gains()
        mixed = self.mixer(_adaln(x_BFHWC, self.norm1, shift1, scale1), *to_mixer)
        x = torch.addcmul(x_BFHWC, gate1 * gain1, mixed)
        fed = self.feed_forward(_adaln(x, self.norm2, shift2, scale2))
        return torch.addcmul(x, gate2 * gain2, fed)


class _GuidedBlock(_Block):
    """A block around guided WKV; a learnt gain a channel joins each gate, and it starts closed."""

    def __init__(self, config: FEATConfig, mixer: SpatialWKV | TemporalWKV) -> None:
        C = config.hidden_size
        super().__init__(config, mixer, nn.Sequential(ScaledSiLU(), zero_linear(C, 6 * C)))
        self.gamma1 = nn.Parameter(torch.ones(C))
        self.gamma2 = nn.Parameter(torch.ones(C))

    def _gains(self) -> tuple[Tensor, Tensor]:
        return self.gamma1, self.gamma2


class _ChannelBlock(_Block):
    """A block around channel attention; open from the start."""

    def __init__(self, config: FEATConfig) -> None:
        C = config.hidden_size
        adaln = nn.Sequential(nn.SiLU(), xavier_linear(C, 6 * C))
        super().__init__(config, ChannelAttention(config), adaln)


class Trio(nn.Module):
    """A spatial, a temporal and a channel block."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        self.spatial = _GuidedBlock(config, SpatialWKV(config))
        self.temporal = _GuidedBlock(config, TemporalWKV(config))
        self.channel = _ChannelBlock(config)

    def forward(
        self,
        x_BFHWC: Tensor,
        time_BC: Tensor,
        guide_BFHWC: Tensor,
        num_image_frames: int,
        identity_wkv: bool,
    ) -> Tensor:
        """Return the tokens; the last ``num_image_frames`` frames pass the temporal block by.

        With ``identity_wkv`` neither WKV mixes tokens.
        """
        x = self.spatial(x_BFHWC, time_BC, guide_BFHWC, identity_wkv)
        if num_image_frames:
            video = slice(0, x.shape[1] - num_image_frames)
            moved = self.temporal(x[:, video], time_BC, guide_BFHWC[:, video], identity_wkv)
            x = torch.cat([moved, x[:, video.stop :]], dim=1)
        else:
            x = self.temporal(x, time_BC, guide_BFHWC, identity_wkv)
        y: Tensor = self.channel(x, time_BC)
        return y


class FinalLayer(nn.Module):
    """adaLN and the projection of a token to its patch of output."""

    def __init__(self, hidden_size: int, patch_values: int) -> None:
        super().__init__()
        self.adaln = nn.Sequential(ScaledSiLU(), zero_linear(hidden_size, 2 * hidden_size))
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=False)
        self.linear = zero_linear(hidden_size, patch_values)

    def forward(self, x_BFHWC: Tensor, time_BC: Tensor) -> Tensor:
        """Return the patches (B, F, H, W, patch_values)."""
        shift, scale = self.adaln(time_BC)[:, None, None, None].chunk(2, -1)
        patches: Tensor = self.linear(_adaln(x_BFHWC, self.norm, shift, scale))
        return patches


def feed_forward_width(config: FEATConfig) -> int:
    """Return the number of gated channels inside a feed-forward."""
    return round(config.hidden_size * config.mlp_ratio)


def _adaln(x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """Return norm(x) (1 + scale) + shift in one pass over the tokens."""
    scale = 1 + scale
    if norm.elementwise_affine:
        scale, shift = norm.weight * scale, torch.addcmul(shift, norm.bias, scale)
    plain = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    return torch.addcmul(shift, plain, scale)
