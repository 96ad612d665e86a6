"""One clip's latent in memory, rounded as it will be stored, frame after frame.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import torch
from torch import Tensor

from feat_fed.codec.base import Latent
from feat_fed.codec.stats import LatentStats, latent_stats
from feat_fed.errors import ClipError, ConfigError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

MIRRORED = "mirrored."
"""What the names of a mirrored clip's moments begin with."""


class EncodedClip:
    """Moments of a clip, and of its mirror image where the codec needs that.

    Parameters
    ----------
    dtype
        Of what is kept, a name in :data:`DTYPES`; half the memory of what a codec gives.
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._parts: dict[str, list[Tensor]] = {}
        self._stats: list[LatentStats] = []

    def add(self, straight: Latent, mirrored: Latent | None = None) -> None:
        """Append some frames of one clip, moments ``1FChw``.

        Raises
        ------
        ClipError
            When the codec made numbers that are none.
        ConfigError
            When one is larger than the dtype can hold.
        """
        named = {"": straight} | ({MIRRORED: mirrored} if mirrored else {})
        for prefix, latent in named.items():
            stored = self._keep(f"{prefix}mean", latent.mean)
            if latent.logvar is not None:
                self._keep(f"{prefix}logvar", latent.logvar)
            if not prefix:
                self._stats.append(latent_stats(latent.mean[0].cpu(), stored))

    @property
    def num_frames(self) -> int:
        """Frames added so far."""
        return sum(len(part) for part in self._parts.get("mean", []))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Moments by name, each ``FChw``."""
        # Some networks give tensors whose channels lie last in memory.
        return {name: torch.cat(parts).contiguous() for name, parts in self._parts.items()}

    @property
    def stats(self) -> LatentStats:
        """Of the means of the clip as it is; there must be a frame."""
        return reduce(add, self._stats)

    def _keep(self, name: str, moments_BFCHW: Tensor) -> Tensor:
        exact = moments_BFCHW[0].cpu()
        if not exact.isfinite().all():
            raise ClipError("the codec cannot encode it")
        stored = exact.to(DTYPES[self._dtype])
        if not stored.isfinite().all():
            raise ConfigError(
                f"a latent reaches {float(exact.abs().max()):g}, more than latents.dtype "
                f"{self._dtype} can hold ({torch.finfo(stored.dtype).max:g}); set latents.dtype: "
                "bfloat16 at the site, or codec.scale in the study"
            )
        self._parts.setdefault(name, []).append(stored)
        return stored
