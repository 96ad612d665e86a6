"""I3D, whose logits FVD is of: Inception-v1 inflated to three dimensions.

Carreira and Zisserman, arXiv 1705.07750, Figure 3. Tensors are named as in pytorch-i3d, whose state
dicts are published. Padding is TensorFlow's "SAME": what is odd goes behind.

Legend: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

MIN_FRAMES = 9
"""Time is halved three times, rounded up, and the last pooling takes two steps."""

Triple = tuple[int, int, int]

_MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Channels in, and of the branches: 1x1x1; 1x1x1, 3x3x3; 1x1x1, 3x3x3; pooling, 1x1x1."""


class I3D(nn.Sequential):
    """Maps (N, 3, T, 224, 224) in [-1, 1] to logits (N, 400); T is 9 at least."""

    def __init__(self, num_classes: int = 400) -> None:
        super().__init__(
            OrderedDict[str, nn.Module](
                Conv3d_1a_7x7=_Unit(3, 64, (7, 7, 7), (2, 2, 2)),
                MaxPool3d_2a_3x3=_SamePool((1, 3, 3), (1, 2, 2)),
                Conv3d_2b_1x1=_Unit(64, 64, (1, 1, 1)),
                Conv3d_2c_3x3=_Unit(64, 192, (3, 3, 3)),
                MaxPool3d_3a_3x3=_SamePool((1, 3, 3), (1, 2, 2)),
                **_mixed("Mixed_3b", "Mixed_3c"),
                MaxPool3d_4a_3x3=_SamePool((3, 3, 3), (2, 2, 2)),
                **_mixed("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
                MaxPool3d_5a_2x2=_SamePool((2, 2, 2), (2, 2, 2)),
                **_mixed("Mixed_5b", "Mixed_5c"),
                logits=_Logits(num_classes),
            )
        )


class _Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels_out)
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv3d(_same(x, self._kernel, self._stride))))


class _SamePool(nn.Module):
    """Maximum; zeros around are harmless, since nothing here is below zero."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return nnf.max_pool3d(_same(x, self._kernel, self._stride), self._kernel, self._stride)


class _Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        self.b0 = _Unit(channels_in, widths[0], one)
        self.b1a = _Unit(channels_in, widths[1], one)
        self.b1b = _Unit(widths[1], widths[2], three)
        self.b2a = _Unit(channels_in, widths[3], one)
        self.b2b = _Unit(widths[3], widths[4], three)
        self.b3a = _SamePool(three, one)
        self.b3b = _Unit(channels_in, widths[5], one)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class _Logits(nn.Module):
    """Average over space, classify, average over time."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv3d(nnf.avg_pool3d(x, (2, 7, 7), stride=1))
        return logits.mean(dim=(2, 3, 4))


def _mixed(*names: str) -> dict[str, nn.Module]:
    return {name: _Mixed(*_MIXED[name]) for name in names}


def _same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Pad with zeros so that each side is divided by the stride, rounded up."""
    pads: list[int] = []
    for size, width, step in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(width - (size % step or step), 0)
        pads += [total // 2, total - total // 2]
    return nnf.pad(x, pads)
