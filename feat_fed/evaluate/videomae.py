"""VideoMAE's encoder, whose features CD-FVD is of: a plain Transformer over tubes of pixels.

Tong et al., arXiv 2203.12602, and Wang et al., arXiv 2303.16727 (ViT-g); tensors are named as in
the published state dicts of VideoMAE v2's fine-tuned models.

Legend: N clips, T frames, H height, W width, L tokens, D width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

_NORM_EPS = 1e-6


@dataclass(frozen=True)
class VideoMAEShape:
    """Sizes of an encoder; a tube is ``tube_frames`` x ``patch_px`` x ``patch_px``."""

    width: int
    depth: int
    heads: int
    hidden: int
    num_classes: int
    num_frames: int = 16
    size_px: int = 224
    tube_frames: int = 2
    patch_px: int = 14


GIANT = VideoMAEShape(width=1408, depth=40, heads=16, hidden=6144, num_classes=174)
"""ViT-g/14 of Something-Something v2, as cd-fvd uses it."""


class VideoMAE(nn.Module):
    """Maps (N, 3, T, H, W) in [0, 1] to features (N, D): the mean token, normalised.

    The classifier is held because published files have it, and is not used.
    """

    def __init__(self, shape: VideoMAEShape = GIANT) -> None:
        super().__init__()
        tube = (shape.tube_frames, shape.patch_px, shape.patch_px)
        patches = (shape.size_px // shape.patch_px) ** 2
        self.shape = shape
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, shape.width, tube, tube)})
        table = _sinusoids(shape.num_frames // shape.tube_frames * patches, shape.width)
        self.register_buffer("positions_LD", table, persistent=False)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.fc_norm = nn.LayerNorm(shape.width, eps=_NORM_EPS)
        self.head = nn.Linear(shape.width, shape.num_classes)

    def forward(self, video_NCTHW: Tensor) -> Tensor:
        """Return the features of clips of exactly the shape's frames and size."""
        x_NLD = self.patch_embed["proj"](video_NCTHW).flatten(2).transpose(1, 2)
        x_NLD = x_NLD + self.get_buffer("positions_LD")
        for block in self.blocks:
            x_NLD = block(x_NLD)
        features: Tensor = self.fc_norm(x_NLD.mean(dim=1))
        return features


class _Block(nn.Module):
    def __init__(self, shape: VideoMAEShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=_NORM_EPS)
        self.attn = _Attention(shape.width, shape.heads)
        self.norm2 = nn.LayerNorm(shape.width, eps=_NORM_EPS)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(shape.width, shape.hidden),
                "fc2": nn.Linear(shape.hidden, shape.width),
            }
        )

    def forward(self, x_NLD: Tensor) -> Tensor:
        x_NLD = x_NLD + self.attn(self.norm1(x_NLD))
        hidden = nnf.gelu(self.mlp["fc1"](self.norm2(x_NLD)))
        added: Tensor = self.mlp["fc2"](hidden)
        return x_NLD + added


class _Attention(nn.Module):
    """Queries and values have a bias, keys have none: it would cancel in the softmax."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x_NLD: Tensor) -> Tensor:
        q, k, v = self.qkv(x_NLD).chunk(3, dim=-1)
        q, v = q + self.q_bias, v + self.v_bias
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        mixed = nnf.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return projected


def _sinusoids(length: int, width: int) -> Tensor:
    """Return (L, D): sines in even columns, cosines in odd ones (arXiv 1706.03762, Section 3.5)."""
    # On the CPU, also while the network is built without memory: no file holds them.
    columns = torch.arange(width, dtype=torch.float64, device="cpu")
    scale = 10000 ** (2 * (columns // 2) / width)
    angles = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] / scale
    angles[:, 0::2] = angles[:, 0::2].sin()
    angles[:, 1::2] = angles[:, 1::2].cos()
    return angles.float()
