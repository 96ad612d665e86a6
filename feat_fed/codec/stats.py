"""Sums over latents: their scale, and what storing them in 16 bits loses.

Sums of several clips, or of several sites, are added; none of them shows a latent. From mean m
and standard deviation s of a channel follow a codec's calibrated ``shift`` + ``scale`` m and
``scale`` s.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentStats:
    """Sums over all latent pixels of some frames.

    Parameters
    ----------
    count
        Numbers a channel.
    total, square
        Sums of the numbers and of their squares, (C,).
    error_square, error_max
        Sum of the squares and largest of the differences to what is stored, over all channels.
    """

    count: int
    total: tuple[float, ...]
    square: tuple[float, ...]
    error_square: float
    error_max: float

    def __add__(self, other: LatentStats) -> LatentStats:
        return LatentStats(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.square, other.square, strict=True)),
            self.error_square + other.error_square,
            max(self.error_max, other.error_max),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel."""
        return tuple(each / self.count for each in self.total)

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, around its mean."""
        pairs = zip(self.square, self.mean, strict=True)
        return tuple(max(0.0, square / self.count - mean**2) ** 0.5 for square, mean in pairs)

    @property
    def rms_loss(self) -> float:
        """Root mean square of the rounding, over the channels' root mean square of ``std``."""
        error = (self.error_square / self.count / len(self.total)) ** 0.5
        return error / self._spread if self._spread else 0.0

    @property
    def max_loss(self) -> float:
        """Largest rounding, likewise."""
        return self.error_max / self._spread if self._spread else 0.0

    @property
    def _spread(self) -> float:
        return float((sum(each**2 for each in self.std) / len(self.std)) ** 0.5)


def latent_stats(z_FCHW: Tensor, stored_FCHW: Tensor) -> LatentStats:
    """Sum over the frames of one latent, in float64."""
    z_CN = z_FCHW.movedim(1, 0).flatten(1).double()
    error = (stored_FCHW.movedim(1, 0).flatten(1).double() - z_CN).abs()
    return LatentStats(
        count=z_CN.shape[1],
        total=tuple(z_CN.sum(1).tolist()),
        square=tuple(z_CN.square().sum(1).tolist()),
        error_square=float(error.square().sum()),
        error_max=float(torch.amax(error)),
    )
