"""What every video codec offers; nothing above asks which one it is.

Legend: B batch, F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """Moments of the latent, each ``BFChw``; a deterministic codec has no ``logvar``."""

    mean: Tensor
    logvar: Tensor | None = None


class VideoCodec(Protocol):
    """An encoder and decoder of videos, frame by frame or over time, with unit-scale latents."""

    @property
    def latent_channels(self) -> int:
        """C of the latent."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that differs between codecs whose latents differ; caches are keyed by it."""
        ...

    def latent_shape(self, frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Return (F, C, h, w) of a clip's latent."""
        ...

    def encode(self, video_BFCHW: Tensor) -> Latent:
        """Encode RGB in [-1, 1]."""
        ...

    def decode(self, z_BFCHW: Tensor) -> Tensor:
        """Decode to RGB in [-1, 1]."""
        ...

    def flip_latent(self, z: Tensor) -> Tensor:
        """Return the latent of the clip mirrored left-right; (..., C, h, w)."""
        ...
