"""Latents on disk: encoded once, whole or not there, and checked before they are used.

A file a clip, named by a hash of all that decides its content, so that nothing stale can be
read. Several processes may share a store: each writes whole files, and equal names hold equal
latents.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import DataError

_SCHEMA = "1"
_LEFTOVER_SEC = 24 * 3600


@dataclass(frozen=True)
class StoredLatent:
    """One clip's latent on disk: float16 moments, ``FChw``."""

    path: Path
    num_frames: int

    def read(self, start_frame: int, stop_frame: int) -> tuple[Tensor, Tensor | None]:
        """Return mean and log-variance (where the codec has one) of some frames, float32.

        Raises
        ------
        DataError
            When the file has gone since it was checked.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                mean = file.get_slice("mean")[start_frame:stop_frame].float()
                if "logvar" not in file.keys():  # noqa: SIM118 (not a mapping)
                    return mean, None
                return mean, file.get_slice("logvar")[start_frame:stop_frame].float()
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.path} can no longer be read ({error}); start again, and it is encoded anew"
            ) from error


class LatentStore:
    """A folder of latents.

    Parameters
    ----------
    folder
        Made if absent. Parts that killed processes left a day ago are removed.

    Raises
    ------
    DataError
        When the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob(".*.safetensors"):
                if time.time() - part.stat().st_mtime > _LEFTOVER_SEC:
                    part.unlink(missing_ok=True)
        except FileNotFoundError:  # another process removed the same part first
            pass
        except OSError as error:
            raise DataError(f"the store {folder} cannot be used: {error.strerror}") from error

    def find(self, recipe: tuple[str, ...]) -> StoredLatent | None:
        """Return the latent made by ``recipe`` if it is there and undamaged.

        A file that was cut off or altered on disk counts as absent: it will be replaced.
        """
        path = self._path(recipe)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        if metadata.get("digest") != _digest(recipe, tensors):
            return None
        return StoredLatent(path, len(tensors["mean"]))

    def put(self, recipe: tuple[str, ...], mean: Tensor, logvar: Tensor | None) -> StoredLatent:
        """Write a clip's moments, ``FChw``, as float16.

        Raises
        ------
        DataError
            When the disk is full or cannot be written.
        """
        tensors = {"mean": mean.half().contiguous()}
        if logvar is not None:
            tensors["logvar"] = logvar.half().contiguous()
        path = self._path(recipe)
        data = save(tensors, metadata={"digest": _digest(recipe, tensors)})
        try:
            write_bytes_atomically(path, data)
        except OSError as error:
            raise DataError(
                f"{len(data)} bytes cannot be written into {self._folder}: {error.strerror}"
            ) from error
        return StoredLatent(path, len(mean))

    def _path(self, recipe: tuple[str, ...]) -> Path:
        name = hashlib.sha256(json.dumps([_SCHEMA, *recipe]).encode()).hexdigest()
        return self._folder / f"{name}.safetensors"


def _digest(recipe: tuple[str, ...], tensors: dict[str, Tensor]) -> str:
    """Hash the recipe, and each tensor's name, shape and bits."""
    digest = hashlib.sha256(json.dumps([_SCHEMA, *recipe]).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
