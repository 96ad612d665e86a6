"""FEAT's token mixers: WKV over space, WKV over time, attention over channels.

Shapes: B batch, F frames, H and W token rows and columns of a frame, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from feat_fed.config import FEATConfig
from feat_fed.model.layers import DepthwiseConv, draw_normal, xavier_linear
from feat_fed.model.wkv import wkv_paper, wkv_published

WKV = Callable[..., Tensor]

_NORM_EPS = 1e-12


class _GuidedWKV(nn.Module):
    """Projections and guidance around WKV passes.

    ResVGM guides the values by ``guide``, the patch-embedded input of the whole network:
    v' = v + alpha_0 guide, and after the passes y' = y + alpha_1 (guide - v).

    With ``identity`` no token sees another one: y = v' takes the place of the passes, as the
    identity matrix takes that of an attention map (arXiv 2403.17377).
    """

    def __init__(self, config: FEATConfig, num_passes: int) -> None:
        super().__init__()
        C = config.hidden_size
        self.wkv: WKV = wkv_paper if config.wkv == "paper" else wkv_published
        self.kvr = xavier_linear(C, 3 * C, bias=False, parts=3)
        self.output = xavier_linear(C, C, bias=False)
        self.decay = nn.Parameter(draw_normal(torch.empty(num_passes, C), std=1.0))
        self.bonus = nn.Parameter(draw_normal(torch.empty(num_passes, C), std=1.0))
        self.alpha = nn.Parameter(torch.zeros(2, C))

    def _mix(
        self,
        x: Tensor,
        guide: Tensor,
        passes: Callable[[Tensor, Tensor], Tensor],
        *,
        identity: bool,
    ) -> Tensor:
        k, v, r = self.kvr(x).chunk(3, -1)
        y = torch.addcmul(v, self.alpha[0], guide)
        if not identity:
            y = passes(k, y)
        y = torch.addcmul(y, self.alpha[1], guide - v)
        mixed: Tensor = self.output(torch.sigmoid(r) * y)
        return mixed


class SpatialWKV(_GuidedWKV):
    """WKV over a frame's tokens row by row, then column by column."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__(config, num_passes=2)
        self.conv = DepthwiseConv(config.hidden_size, residual=True)

    def forward(self, x_BFHWC: Tensor, guide_BFHWC: Tensor, identity: bool = False) -> Tensor:
        """Return the mixed tokens."""
        x_NHWC, guide_NHWC = self.conv(x_BFHWC.flatten(0, 1)), guide_BFHWC.flatten(0, 1)
        y_NHWC = self._mix(x_NHWC, guide_NHWC, self._passes, identity=identity)
        return y_NHWC.view(x_BFHWC.shape)

    def _passes(self, k_NHWC: Tensor, v_NHWC: Tensor) -> Tensor:
        y = self.wkv(k_NHWC, v_NHWC, self.decay[0], self.bonus[0], token_axes=2)
        k_NWHC, y_NWHC = k_NHWC.transpose(1, 2), y.transpose(1, 2)
        y_NWHC = self.wkv(k_NWHC, y_NWHC, self.decay[1], self.bonus[1], token_axes=2)
        return y_NWHC.transpose(1, 2)


class TemporalWKV(_GuidedWKV):
    """WKV over the frames, for each place of a frame on its own."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__(config, num_passes=1)
        self.conv = DepthwiseConv(config.hidden_size, residual=True)
        self.frame_conv = DepthwiseConv(config.hidden_size, (3, 1), residual=True)

    def forward(self, x_BFHWC: Tensor, guide_BFHWC: Tensor, identity: bool = False) -> Tensor:
        """Return the mixed tokens."""
        shape = x_BFHWC.shape
        x = self.conv(x_BFHWC.flatten(0, 1)).reshape(shape)
        # A clip is an image of F rows, each row all places of a frame.
        x = self.frame_conv(x.flatten(2, 3)).reshape(shape)
        return self._mix(x, guide_BFHWC, self._passes, identity=identity)

    def _passes(self, k_BFHWC: Tensor, v_BFHWC: Tensor) -> Tensor:
        return self.wkv(k_BFHWC, v_BFHWC, self.decay[0], self.bonus[0])


class ChannelAttention(nn.Module):
    """Attention between the channels of a head, over all places of a frame (Restormer's MDTA)."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.num_heads = config.num_heads
        self.temperature = nn.Parameter(torch.ones(config.num_heads, 1, 1))
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.conv = DepthwiseConv(3 * C)
        self.output = nn.Linear(C, C, bias=False)

    def forward(self, x_BFHWC: Tensor) -> Tensor:
        """Return the mixed tokens; h is a head's width, n and m number heads and places."""
        qkv = self.conv(self.qkv(x_BFHWC).flatten(0, 1))
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        # q and k are of unit length over the places; dividing their products is cheaper.
        lengths = _length(q).transpose(-1, -2) * _length(k)
        products_Nnhh = torch.einsum("Nmnh,Nmng->Nnhg", q, k)
        weights = torch.softmax(products_Nnhh / lengths * self.temperature, dim=-1)
        y_Nmnh = torch.einsum("Nnhg,Nmng->Nmnh", weights.to(v.dtype), v)
        mixed: Tensor = self.output(y_Nmnh.reshape(x_BFHWC.shape))
        return mixed


def _length(x_Nmnh: Tensor) -> Tensor:
    """Return the norm over places, (N, n, 1, h)."""
    norm: Tensor = torch.linalg.vector_norm(x_Nmnh, dim=1)
    return norm.clamp_min(_NORM_EPS).unsqueeze(-2)
