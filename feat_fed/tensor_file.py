"""Tensor files: safetensors with a typed header and a digest.

A file says what it is and refuses to be read as anything else. It is written beside its place
and renamed, so a reader sees the old file or the new one, also after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feat_fed.atomic import atomic_path
from feat_fed.errors import CheckpointError, StorageError

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_HEADER = "feat_fed"
_FORMAT = {"format": "pt"}
"""Without it, tools of the Hugging Face family refuse a safetensors file."""
_DIGEST = "sha256"
_AGAIN = "fetch or write it again"
_BLOCK_BYTES = 2**20

HeaderT = TypeVar("HeaderT", bound=BaseModel)


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], header: BaseModel, *, durable: bool = True
) -> str:
    """Write tensors and header atomically; the folder is made where it is missing.

    ``durable`` is that of :func:`~feat_fed.atomic.atomic_path`.

    Returns
    -------
    str
        The SHA-256 of header and tensors that the file holds.

    Raises
    ------
    StorageError
        If the file cannot be written; what was there before is still there.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = header.model_dump_json()
    digest = _digest(text, state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, durable=durable) as part:
            save_file(state, part, {_HEADER: text, _DIGEST: digest} | _FORMAT)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    return digest


def read_tensor_file(path: Path, header: type[HeaderT]) -> tuple[HeaderT, dict[str, Tensor]]:
    """Return the header and the tensors, which are copies in memory.

    Raises
    ------
    CheckpointError
        If the file is absent, truncated, damaged, not one of ours, or has another header.
    """
    with _opened(path, whole=True) as file:
        text, digest = _about(path, file)
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    parsed = _parse(path, text, header)
    if _digest(text, tensors) != digest:
        raise _damaged(path)
    return parsed, tensors


def verify_tensor_file(path: Path, header: type[HeaderT]) -> HeaderT:
    """Return the header of a file whose content matches its digest; one tensor is read at a time.

    Raises
    ------
    CheckpointError
        As by :func:`read_tensor_file`.
    """
    with _opened(path, whole=True) as file:
        text, digest = _about(path, file)
        sha = hashlib.sha256(text.encode())
        for name in sorted(file.keys()):
            hash_tensors(sha, {name: file.get_tensor(name)})
    parsed = _parse(path, text, header)
    if sha.hexdigest() != digest:
        raise _damaged(path)
    return parsed


def read_tensors(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Return some tensors of a file that was verified before, as copies in memory.

    Raises
    ------
    CheckpointError
        If the file is absent, or lacks one of them.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in names}


def read_digest(path: Path) -> str:
    """Return the SHA-256 that a file holds of its header and tensors; it is not compared with them.

    Raises
    ------
    CheckpointError
        If the file is absent, truncated, or not one of ours.
    """
    with _opened(path) as file:
        return _about(path, file)[1]


@contextmanager
def _opened(path: Path, *, whole: bool = False) -> Iterator[Any]:  # safetensors names no type of it
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    try:
        if whole:
            _read_through(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not safetensors ({error}); {_AGAIN}"
        ) from None


def _read_through(path: Path) -> None:
    """Read a file once: a sector that cannot be read is an error here, and kills who maps it."""
    block = bytearray(_BLOCK_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def _about(path: Path, file: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return the header's text and the digest."""
    about = file.metadata() or {}
    if _HEADER not in about or _DIGEST not in about:
        raise CheckpointError(f"{path} is safetensors, but not a weights file of feat-fed")
    return about[_HEADER], about[_DIGEST]


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: its content does not match its digest; {_AGAIN}")


def _parse(path: Path, text: str, header: type[HeaderT]) -> HeaderT:
    try:
        return header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path} has a header that this feat-fed cannot read: {where}: {first['msg']}"
        ) from None


def hash_tensors(sha: Hash, tensors: Mapping[str, Tensor]) -> None:
    """Add every tensor's name, type, shape and bytes, in name order; on the CPU."""
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header and of the tensors."""
    sha = hashlib.sha256(header.encode())
    hash_tensors(sha, tensors)
    return sha.hexdigest()
