"""What is compared of a latent frame: pooled, without what all clips have in common, per channel.

The mean frame of an ultrasound or endoscopy archive (a sector, a dark corner, a logo) makes any
two of its clips alike. It is taken out, and each channel is brought to unit variance, so that one
with large numbers does not decide alone.

Legend: F frames, C channels, h and w of the latent, D = C times the pooled h and w.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

POOLED_SIDE = 8
"""Latent pixels a side, at most: noise and grain average out, and what the clip shows stays."""

_SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class Scaling:
    """Mean frame and standard deviation of each channel, over the frames of all training clips.

    Parameters
    ----------
    mean_Chw
        Pooled, float32.
    std_C
        Around that mean, float32, above 0.
    """

    mean_Chw: Tensor
    std_C: Tensor

    @classmethod
    def of(cls, blocks_FChw: Iterable[Tensor]) -> Scaling:
        """Take the moments of pooled frames that come in blocks; memory is that of a block.

        Raises
        ------
        ValueError
            If there is no frame.
        """
        frames, total, square = 0, torch.zeros(()), torch.zeros(())
        for block_FChw in blocks_FChw:
            exact = block_FChw.double()
            frames += len(exact)
            total, square = total + exact.sum(0), square + exact.square().sum(0)
        if not frames:
            raise ValueError("no frame to take a mean of")
        mean_Chw = total / frames
        variance_C = (square / frames - mean_Chw.square()).clamp(min=0).mean((1, 2))
        std_C = variance_C.sqrt()
        # A channel that never changes says nothing about who is who.
        std_C[std_C <= _SMALLEST_STD * std_C.max()] = torch.inf
        return cls(mean_Chw.float(), std_C.float())

    def __call__(self, pooled_FChw: Tensor) -> Tensor:
        """Return frames as vectors, ``x_FD``."""
        return ((pooled_FChw - self.mean_Chw) / self.std_C[:, None, None]).flatten(1)


def pooled(z_FChw: Tensor) -> Tensor:
    """Average a latent's frames down to :data:`POOLED_SIDE` latent pixels a side, float32."""
    height, width = z_FChw.shape[-2:]
    return adaptive_avg_pool2d(z_FChw.float(), (min(POOLED_SIDE, height), min(POOLED_SIDE, width)))
