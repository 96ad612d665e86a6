"""One clip's latent on its way to the store, rounded as it will be stored, frame after frame.

It may be larger than the memory, so it grows in nameless files, which end with the process.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from feat_fed.codec.base import Latent
from feat_fed.codec.stats import LatentStats, latent_stats
from feat_fed.errors import ClipError, ConfigError, DataError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

MIRRORED = "mirrored."
"""What the names of a mirrored clip's moments begin with."""


class EncodedClip:
    """Moments of a clip, and of its mirror image where the codec needs that.

    Parameters
    ----------
    dtype
        Of what is kept, a name in :data:`DTYPES`.
    folder
        Where there is room for it: the store's.
    """

    def __init__(self, dtype: str, folder: Path) -> None:
        self._dtype = DTYPES[dtype]
        self._folder = folder
        self._parts: dict[str, _Part] = {}
        self._stats: list[LatentStats] = []

    def __enter__(self) -> EncodedClip:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts.values():
            part.file.close()

    def add(self, straight: Latent, mirrored: Latent | None = None) -> None:
        """Append some frames of one clip, moments ``1FChw``.

        Raises
        ------
        ClipError
            When the codec made numbers that are none.
        ConfigError
            When one is larger than the dtype can hold.
        DataError
            When the disk is full.
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
        return self._parts["mean"].num_frames if self._parts else 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Moments by name, each ``FChw``, mapped into memory: nothing is read yet."""
        return {name: part.mapped(self._dtype) for name, part in self._parts.items()}

    @property
    def stats(self) -> LatentStats:
        """Of the means of the clip as it is; there must be a frame."""
        return reduce(add, self._stats)

    def _keep(self, name: str, moments_BFCHW: Tensor) -> Tensor:
        exact = moments_BFCHW[0].cpu()
        if not exact.isfinite().all():
            raise ClipError("the codec cannot encode it")
        stored = exact.to(self._dtype)
        if not stored.isfinite().all():
            raise ConfigError(
                f"a latent reaches {float(exact.abs().max()):g}, more than latents.dtype "
                f"{_name(self._dtype)} can hold ({torch.finfo(stored.dtype).max:g}); set "
                "latents.dtype: bfloat16 at the site, or codec.scale in the study"
            )
        try:
            if name not in self._parts:
                file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (see __exit__)
                self._parts[name] = _Part(file, tuple(stored.shape[1:]))
            self._parts[name].append(stored)
        except OSError as error:
            raise DataError(f"{self._folder} cannot be written: {error.strerror}") from error
        return stored


@dataclass
class _Part:
    """One tensor that grows in a file."""

    file: BinaryIO
    frame_shape: tuple[int, ...]
    num_frames: int = 0

    def append(self, part_FChw: Tensor) -> None:
        # Some networks give tensors whose channels lie last in memory.
        self.file.write(raw_bytes(part_FChw.contiguous()))
        self.num_frames += len(part_FChw)

    def mapped(self, dtype: torch.dtype) -> Tensor:
        self.file.flush()
        bytes_U = np.memmap(self.file, mode="r+")  # torch wants an array that may be written
        return torch.from_numpy(bytes_U).view(dtype).view(self.num_frames, *self.frame_shape)


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without a copy."""
    return tensor.flatten().view(torch.uint8).numpy().data


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
