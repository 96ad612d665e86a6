"""FEAT in the layout that its publication describes, as a peer for the benchmarks.

Our own transcription of the published equations and tensor shapes (arXiv 2506.04956), not the
authors' code. Where :class:`feat_fed.model.FEAT` keeps tokens in one order, here

- 1x1 convolutions are ``nn.Conv2d`` on (N, C, H, W), blocks rearrange on their way, and what a
  depthwise convolution makes is split into halves or q, k, v of their own, channels first;
- adaLN is computed for every row of a block's batch: a frame, or a place of a temporal block;
- k, v and r are three products, and norms, gates and residuals are separate operations.

WKV, a CUDA kernel in the release, is any function that the caller gives: an operator in plain
PyTorch makes the whole a straightforward transcription, our own leaves the layout as the only
difference. Attributes bear the names of the released files' tensors.

Shapes: B clips, F frames, H and W token rows and columns, L = H W, C channels; N is B F or B L.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from torch import Tensor, nn

from feat_fed.config import FEATConfig
from feat_fed.model import FEAT, to_published

WKV = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""k, v (N, T, C) and raw w, u (C,) to y (N, T, C)."""

SILU_SCALE = 0.596
NEVER_TRAINED = ("att.dwconv1d.weight", "attn.alpha")


class Grid(NamedTuple):
    """Sizes of a clip of tokens."""

    b: int
    f: int
    h: int
    w: int


class ScaledSiLU(nn.Module):
    """SiLU(x)/0.596."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        return F.silu(x) / SILU_SCALE


def modulate(x_NTC: Tensor, shift_NC: Tensor, scale_NC: Tensor) -> Tensor:
    """Return x (1 + scale) + shift."""
    return x_NTC * (1 + scale_NC.unsqueeze(1)) + shift_NC.unsqueeze(1)


def images(x_NTC: Tensor, grid: Grid, *, by_frame: bool) -> Tensor:
    """Return tokens as images (B F, C, H, W)."""
    if by_frame:
        return rearrange(x_NTC, "n (h w) c -> n c h w", h=grid.h)
    return rearrange(x_NTC, "(b h w) f c -> (b f) c h w", h=grid.h, w=grid.w)


def tokens(x_NCHW: Tensor, grid: Grid, *, by_frame: bool) -> Tensor:
    """Undo :func:`images`."""
    if by_frame:
        return rearrange(x_NCHW, "n c h w -> n (h w) c")
    return rearrange(x_NCHW, "(b f) c h w -> (b h w) f c", f=grid.f)


def split_images(x_NCHW: Tensor, parts: int) -> list[Tensor]:
    """Return groups of channels, each in memory of its own, channels first."""
    return [part.contiguous() for part in x_NCHW.chunk(parts, dim=1)]


class TimestepEmbedding(nn.Module):
    """Sines and cosines of the timestep through a small MLP."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, C), ScaledSiLU(), nn.Linear(C, C))

    def forward(self, t_B: Tensor) -> Tensor:
        """Return (B, C)."""
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128, device=t_B.device) / 128)
        phase = t_B[:, None].float() * frequencies
        embedding: Tensor = self.mlp(torch.cat([phase.cos(), phase.sin()], dim=-1))
        return embedding


class FeedForward(nn.Module):
    """1x1 to twice the hidden width, depthwise 3x3, GELU(a) b, 1x1 back."""

    def __init__(self, C: int, D: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(C, 2 * D, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * D, 2 * D, 3, padding=1, groups=2 * D, bias=False)
        self.project_out = nn.Conv2d(D, C, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the branch's output."""
        a, b = split_images(self.dwconv(self.project_in(x_NCHW)), 2)
        y: Tensor = self.project_out(F.gelu(a) * b)
        return y


class TokenMixing(nn.Module):
    """Depthwise convolutions, WKV over a frame's tokens or over frames, and ResVGM."""

    def __init__(self, config: FEATConfig, wkv: WKV, *, by_frame: bool) -> None:
        super().__init__()
        C, passes = config.hidden_size, 2 if by_frame else 1
        self.by_frame = by_frame
        self.wkv = wkv
        self.key = nn.Linear(C, C, bias=False)
        self.value = nn.Linear(C, C, bias=False)
        self.receptance = nn.Linear(C, C, bias=False)
        self.output = nn.Linear(C, C, bias=False)
        self.dwconv2d = nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False)
        if not by_frame:
            self.dwconv1d = nn.Conv1d(C, C, 3, padding=1, groups=C, bias=False)
        self.alpha = nn.Parameter(torch.zeros(2, C))
        self.spatial_decay = nn.Parameter(torch.randn(passes, C))
        self.spatial_first = nn.Parameter(torch.randn(passes, C))

    def forward(self, x_NTC: Tensor, res_NTC: Tensor, grid: Grid) -> Tensor:
        """Return the mixed tokens."""
        x = images(x_NTC, grid, by_frame=self.by_frame)
        x = tokens(x + self.dwconv2d(x), grid, by_frame=self.by_frame)
        if not self.by_frame:
            x = rearrange(x, "n f c -> n c f")
            x = rearrange(x + self.dwconv1d(x), "n c f -> n f c")
        k, v, r = self.key(x), self.value(x), self.receptance(x)
        y = self._pass(k, v + self.alpha[0] * res_NTC, 0)
        if self.by_frame:
            k = rearrange(k, "n (h w) c -> n (w h) c", h=grid.h)
            y = rearrange(y, "n (h w) c -> n (w h) c", h=grid.h)
            y = rearrange(self._pass(k, y, 1), "n (w h) c -> n (h w) c", h=grid.h)
        y = y + self.alpha[1] * (res_NTC - v)
        mixed: Tensor = self.output(torch.sigmoid(r) * y)
        return mixed

    def _pass(self, k_NTC: Tensor, v_NTC: Tensor, which: int) -> Tensor:
        return self.wkv(k_NTC, v_NTC, self.spatial_decay[which], self.spatial_first[which])


class Block(nn.Module):
    """A spatial block (``by_frame``) or a temporal one."""

    def __init__(self, config: FEATConfig, wkv: WKV, *, by_frame: bool) -> None:
        super().__init__()
        C = config.hidden_size
        self.by_frame = by_frame
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.att = TokenMixing(config, wkv, by_frame=by_frame)
        self.ffn = FeedForward(C, round(C * config.mlp_ratio))
        self.gamma1, self.gamma2 = nn.Parameter(torch.ones(C)), nn.Parameter(torch.ones(C))
        self.adaLN_modulation = nn.Sequential(ScaledSiLU(), nn.Linear(C, 6 * C))

    def forward(self, x_NTC: Tensor, time_NC: Tensor, res_NTC: Tensor, grid: Grid) -> Tensor:
        """Return the tokens after both branches."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(time_NC).chunk(6, 1)
        mixed = self.att(modulate(self.ln1(x_NTC), shift1, scale1), res_NTC, grid)
        x = x_NTC + (gate1 * self.gamma1).unsqueeze(1) * mixed
        fed = images(modulate(self.ln2(x), shift2, scale2), grid, by_frame=self.by_frame)
        fed = tokens(self.ffn(fed), grid, by_frame=self.by_frame)
        y: Tensor = x + (gate2 * self.gamma2).unsqueeze(1) * fed
        return y


class ChannelMixing(nn.Module):
    """Attention between the channels of a head, over the places of a frame."""

    def __init__(self, C: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(C, 3 * C, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * C, 3 * C, 3, padding=1, groups=3 * C, bias=False)
        self.project_out = nn.Conv2d(C, C, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the mixed images."""
        qkv = split_images(self.qkv_dwconv(self.qkv(x_NCHW)), 3)
        by_head = "n (e c) h w -> n e c (h w)"
        q, k, v = (rearrange(each, by_head, e=self.num_heads) for each in qkv)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        y = rearrange(weights @ v, "n e c (h w) -> n (e c) h w", h=x_NCHW.shape[2])
        mixed: Tensor = self.project_out(y)
        return mixed


class ChannelBlock(nn.Module):
    """A block around attention between channels."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        C = config.hidden_size
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn = ChannelMixing(C, config.num_heads)
        self.ffn = FeedForward(C, round(C * config.mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))

    def forward(self, x_NTC: Tensor, time_NC: Tensor, grid: Grid) -> Tensor:
        """Return the tokens after both branches."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(time_NC).chunk(6, 1)
        mixed = self.attn(images(modulate(self.norm1(x_NTC), shift1, scale1), grid, by_frame=True))
        x = x_NTC + gate1.unsqueeze(1) * tokens(mixed, grid, by_frame=True)
        fed = self.ffn(images(modulate(self.norm2(x), shift2, scale2), grid, by_frame=True))
        y: Tensor = x + gate2.unsqueeze(1) * tokens(fed, grid, by_frame=True)
        return y


class PatchEmbedding(nn.Module):
    """A strided convolution: a token a patch."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.hidden_size, p, stride=p)

    def forward(self, z_NCHW: Tensor) -> Tensor:
        """Return tokens (N, L, C)."""
        x: Tensor = rearrange(self.proj(z_NCHW), "n c h w -> n (h w) c")
        return x


class FinalLayer(nn.Module):
    """adaLN and the projection to patches."""

    def __init__(self, config: FEATConfig) -> None:
        super().__init__()
        C, p = config.hidden_size, config.patch_size
        self.norm_final = nn.LayerNorm(C, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(C, 2 * config.in_channels * p * p)
        self.adaLN_modulation = nn.Sequential(ScaledSiLU(), nn.Linear(C, 2 * C))

    def forward(self, x_NTC: Tensor, time_NC: Tensor) -> Tensor:
        """Return patches (N, L, 2 p p channels)."""
        shift, scale = self.adaLN_modulation(time_NC).chunk(2, dim=1)
        patches: Tensor = self.linear(modulate(self.norm_final(x_NTC), shift, scale))
        return patches


class PublishedFEAT(nn.Module):
    """The network, under the released files' names."""

    def __init__(self, config: FEATConfig, wkv: WKV) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.x_embedder = PatchEmbedding(config)
        self.t_embedder = TimestepEmbedding(config.hidden_size)
        blocks = [Block(config, wkv, by_frame=i % 2 == 0) for i in range(2 * config.num_trios)]
        self.blocks = nn.ModuleList(blocks)
        self.restormers = nn.ModuleList(ChannelBlock(config) for _ in range(config.num_trios))
        self.final_layer = FinalLayer(config)
        self.res_conv = nn.Conv2d(config.in_channels, 2 * config.in_channels, 1)

    @classmethod
    def like(cls, model: FEAT, wkv: WKV) -> PublishedFEAT:
        """Return the same function as ``model``, with copies of its weights."""
        peer = cls(model.config, wkv)
        told = peer.load_state_dict(to_published(model), strict=False)
        if told.missing_keys or not all(n.endswith(NEVER_TRAINED) for n in told.unexpected_keys):
            raise ValueError(f"the peer is of another network: {told}")
        return peer

    def forward(self, z_BFCHW: Tensor, t_B: Tensor) -> Tensor:
        """Return (B, F, 2C, H, W): epsilon and variance logits."""
        p, (b, f, _, height, width) = self.patch_size, z_BFCHW.shape
        grid = Grid(b, f, height // p, width // p)
        z = rearrange(z_BFCHW, "b f c h w -> (b f) c h w")
        x = res = self.x_embedder(z)
        res_by_place = rearrange(res, "(b f) l c -> (b l) f c", b=b)
        time_BC = self.t_embedder(t_B)
        time_by_frame = repeat(time_BC, "b c -> (b f) c", f=f)
        time_by_place = repeat(time_BC, "b c -> (b l) c", l=grid.h * grid.w)
        for i, restormer in enumerate(self.restormers):
            x = self.blocks[2 * i](x, time_by_frame, res, grid)
            x = rearrange(x, "(b f) l c -> (b l) f c", b=b)
            x = self.blocks[2 * i + 1](x, time_by_place, res_by_place, grid)
            x = rearrange(x, "(b l) f c -> (b f) l c", b=b)
            x = restormer(x, time_by_frame, grid)
        patches = self.final_layer(x, time_by_frame)
        out = rearrange(patches, "n (h w) (p q c) -> n c (h p) (w q)", h=grid.h, p=p, q=p)
        clip: Tensor = rearrange(out + self.res_conv(z), "(b f) c h w -> b f c h w", b=b)
        return clip
