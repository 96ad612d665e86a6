"""Layers that the three kinds of block share.

Shapes: B batch, F frames, H and W token rows and columns of a frame, C channels (last, so
that a 1x1 convolution is a matrix product), D channels of a hidden layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SILU_SCALE = 0.596
"""Root mean square of SiLU on a normal input; dividing by it keeps the input's magnitude."""

_TIME_FREQUENCIES = 256
_MAX_PERIOD = 10_000.0


def xavier_linear(inputs: int, outputs: int, *, bias: bool = True, parts: int = 1) -> nn.Linear:
    """Return a layer with Xavier-uniform weights and no offset.

    ``parts`` layers that read one input share a matrix product; each is drawn on its own.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    for weight in layer.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer whose output starts at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def draw_normal(weight: Tensor, *, std: float) -> Tensor:
    """Draw a weight's values in place, and return it."""
    # Of a model that is only looked at, torch would import its compiler and SymPy for two seconds.
    return weight if weight.is_meta else nn.init.normal_(weight, std=std)


class ScaledSiLU(nn.Module):
    """SiLU(x)/0.596."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of ``x``."""
        return F.silu(x) / SILU_SCALE


class TimestepEmbedder(nn.Module):
    """Sines and cosines of the timestep through a small MLP."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        first = xavier_linear(_TIME_FREQUENCIES, hidden_size)
        second = xavier_linear(hidden_size, hidden_size)
        for layer in (first, second):
            draw_normal(layer.weight, std=0.02)
        self.mlp = nn.Sequential(first, ScaledSiLU(), second)

    def forward(self, t_B: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the embedding (B, C) of timesteps that count from 0."""
        half = _TIME_FREQUENCIES // 2
        octave = torch.arange(half, dtype=torch.float32, device=t_B.device) / half
        phase = t_B[:, None].float() * torch.exp(-math.log(_MAX_PERIOD) * octave)
        embedding: Tensor = self.mlp(torch.cat([phase.cos(), phase.sin()], dim=-1).to(dtype))
        return embedding


class LabelEmbedder(nn.Module):
    """A learnt vector for each class, and a last one for no class (arXiv 2212.09748).

    The null class, numbered ``num_classes``, is what classifier-free guidance leads away from.
    """

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.null = num_classes
        self.weight = nn.Parameter(torch.empty(num_classes + 1, hidden_size))
        draw_normal(self.weight, std=0.02)

    def forward(self, labels_B: Tensor) -> Tensor:
        """Return the embedding (B, C) of classes 0 to ``null``."""
        return F.embedding(labels_B, self.weight)


class DepthwiseConv(nn.Module):
    """One small kernel a channel over images of tokens (N, rows, columns, C), zero-padded.

    With ``residual`` the input is added to the output, by one more on the kernel's centre.
    """

    identity: Tensor

    def __init__(
        self, channels: int, kernel: tuple[int, int] = (3, 3), *, residual: bool = False
    ) -> None:
        super().__init__()
        self.padding = (kernel[0] // 2, kernel[1] // 2)
        self.weight = nn.Parameter(torch.empty(channels, 1, *kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        identity = torch.zeros(kernel)
        if residual:
            identity[self.padding] = 1
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, x_NHWC: Tensor) -> Tensor:
        """Return the filtered images; the permuted views are channels-last, so nothing moves."""
        y = F.conv2d(
            x_NHWC.permute(0, 3, 1, 2),
            self.weight + self.identity,
            padding=self.padding,
            groups=x_NHWC.shape[-1],
        )
        return y.permute(0, 2, 3, 1)


class GatedFeedForward(nn.Module):
    """1x1 to twice the hidden width, depthwise 3x3, GELU(a) b, 1x1 back (Restormer's GDFN)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * hidden, bias=False)
        self.conv = DepthwiseConv(2 * hidden)
        self.project = nn.Linear(hidden, channels, bias=False)

    def forward(self, x_BFHWC: Tensor) -> Tensor:
        """Return the branch's output, of the input's shape."""
        h_NHWD = self.conv(self.expand(x_BFHWC).flatten(0, 1))
        y: Tensor = self.project(_gelu_gate(h_NHWD))
        return y.view(x_BFHWC.shape)


def _gelu_gate(h: Tensor) -> Tensor:
    """Return GELU(a) b of the input's halves (a, b)."""
    if torch.compiler.is_compiling():  # a compiler fuses, and saves what it needs, by itself
        a, b = h.chunk(2, -1)
        return F.gelu(a) * b
    gated: Tensor = _GELUGate.apply(h)  # type: ignore[no-untyped-call]
    return gated


class _GELUGate(torch.autograd.Function):
    """The gate, keeping only its input for the backward pass."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(h)
        a, b = h.chunk(2, -1)
        return F.gelu(a).mul_(b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> Tensor:  # noqa: ANN401
        (h,) = ctx.saved_tensors
        a, b = h.chunk(2, -1)
        gh = torch.empty_like(h)
        ga, gb = gh.chunk(2, -1)
        torch.mul(gy, F.gelu(a), out=gb)
        torch.ops.aten.gelu_backward.grad_input(gy * b, a, approximate="none", grad_input=ga)
        return gh
