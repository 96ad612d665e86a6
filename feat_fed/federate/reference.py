"""The weights that a round starts from, on disk at both ends and named by their digest.

A difference means something only to who has the very same bits to add it to. The digest of
weights is that of a file of them, so writing one tells it, and reading one checks it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError
from feat_fed.tensor_file import hash_tensors, read_digest, read_tensor_file, write_tensor_file


class _Header(StrictModel):
    """The same in all files: it is part of the digest."""

    schema_version: Literal[1] = 1
    kind: Literal["reference"] = "reference"


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights: names, shapes, dtypes and bits."""
    sha = hashlib.sha256(_Header().model_dump_json().encode())
    hash_tensors(sha, weights)
    return sha.hexdigest()


def write_reference(path: Path, weights: Mapping[str, Tensor], *, durable: bool) -> str:
    """Write weights atomically and return their digest.

    Raises
    ------
    StorageError
        If they cannot be written.
    """
    return write_tensor_file(path, weights, _Header(), durable=durable)


def read_reference(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file.

    Raises
    ------
    CheckpointError
        If there are none, or they are not those of the file's digest.
    """
    return read_tensor_file(path, _Header)[1]


def reference_digest(path: Path) -> str | None:
    """Return the digest of a file's weights as it says itself; None where there is no such file."""
    with contextlib.suppress(CheckpointError):
        return read_digest(path)
    return None
