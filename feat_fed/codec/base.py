"""What every video codec offers; nothing above asks which one it is.

Legend: B batch, F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """Moments of the latent, each ``BFChw``; a deterministic codec has no ``logvar``."""

    mean: Tensor
    logvar: Tensor | None = None


class VideoCodec(Protocol):
    """An encoder and decoder of videos, with latents of about unit scale.

    Frames are coded one by one: a part of a clip has that part of the clip's latent.
    """

    @property
    def latent_channels(self) -> int:
        """C of the latent."""
        ...

    @property
    def has_logvar(self) -> bool:
        """Whether :meth:`encode` gives a log-variance beside the mean."""
        ...

    @property
    def flip_signs(self) -> tuple[int, ...] | None:
        """What :func:`flip_latent` needs; None where only encoding tells a mirrored clip's latent.

        Learned filters are not symmetric, so the mirrored latent is not the mirrored clip's.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Text that differs between codecs whose latents differ; caches are keyed by it."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move what the codec computes with; return the codec itself."""
        ...

    def latent_shape(self, frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Return (F, C, h, w) of a clip's latent."""
        ...

    def encode(self, video_BFCHW: Tensor) -> Latent:
        """Encode RGB in [-1, 1]; the latent is where the video is."""
        ...

    def decode(self, z_BFCHW: Tensor) -> Tensor:
        """Decode to RGB in [-1, 1], where the latent is."""
        ...


def flip_latent(z: Tensor, signs: tuple[int, ...]) -> Tensor:
    """Return the latent of the clip mirrored left-right.

    Parameters
    ----------
    z
        (..., C, h, w).
    signs
        Of each channel: -1 for one that is odd over the width.
    """
    return z.flip(-1) * torch.tensor(signs).to(z)[:, None, None]
