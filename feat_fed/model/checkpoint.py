"""Weights files: safetensors with a typed header and a digest.

A file says what it is (``kind``) and of which model; it refuses to load as anything else.
It is written beside its place and renamed, so a reader sees the old file or the new one,
also after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feat_fed.atomic import atomic_path
from feat_fed.config import FEATConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError
from feat_fed.model.state import fingerprint, mismatches, state_schema

_HEADER = "feat_fed"
_FORMAT = {"format": "pt"}
"""Without it, tools of the Hugging Face family refuse a safetensors file."""
_DIGEST = "sha256"
_AGAIN = "fetch or write it again"


class _Header(StrictModel):
    """What a file says of itself, as JSON in the safetensors metadata."""

    schema_version: Literal[1] = 1
    kind: str
    model: FEATConfig
    fingerprint: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class Weights:
    """A weights file's content."""

    tensors: dict[str, Tensor]
    kind: str
    model: FEATConfig
    metadata: dict[str, str]


def write_weights(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    model: FEATConfig,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model's weights atomically and durably.

    Parameters
    ----------
    path
        The file; its folder must exist.
    tensors
        A full state of ``model``.
    kind
        What the weights are, such as ``global``, ``ema`` or ``local``.
    model
        Their model.
    metadata
        Free short strings, such as the round.

    Raises
    ------
    CheckpointError
        If the tensors are not the model's, or the file cannot be written.
    """
    _refuse_mismatch(path, tensors, model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = _Header(
        kind=kind, model=model, fingerprint=fingerprint(model), metadata=dict(metadata or {})
    ).model_dump_json()
    try:
        with atomic_path(path) as part:
            about = {_HEADER: header, _DIGEST: _digest(header, state)}
            save_file(state, part, about | _FORMAT)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_weights(
    path: Path, *, kind: str | None = None, model: FEATConfig | None = None
) -> Weights:
    """Read a file of :func:`write_weights`.

    Parameters
    ----------
    path
        The file.
    kind, model
        What it must hold; None takes any.

    Raises
    ------
    CheckpointError
        If the file is absent, truncated, damaged, not one of ours, of another kind or of
        another model.
    """
    text, digest, tensors = _open(path)
    header = _parse(path, text)
    if _digest(text, tensors) != digest:
        raise CheckpointError(f"{path} is damaged: its content does not match its digest; {_AGAIN}")
    if kind is not None and header.kind != kind:
        raise CheckpointError(f"{path} holds {header.kind!r} weights, not {kind!r}")
    if model is not None and header.model != model:
        raise CheckpointError(f"{path} is of another model: {_difference(header.model, model)}")
    if header.fingerprint != _fingerprint(path, tensors, header.model):
        raise CheckpointError(f"{path} was written by a feat-fed whose network has other tensors")
    _refuse_mismatch(path, tensors, header.model)
    return Weights(tensors, header.kind, header.model, header.metadata)


def _open(path: Path) -> tuple[str, str, dict[str, Tensor]]:
    """Return header, digest and tensors, which are copies in memory."""
    if not path.is_file():
        raise CheckpointError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not safetensors ({error}); {_AGAIN}"
        ) from None
    if _HEADER not in about or _DIGEST not in about:
        raise CheckpointError(f"{path} is safetensors, but not a weights file of feat-fed")
    return about[_HEADER], about[_DIGEST], tensors


def _parse(path: Path, text: str) -> _Header:
    try:
        return _Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path} has a header that this feat-fed cannot read: {where}: {first['msg']}"
        ) from None


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the header and of every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _refuse_mismatch(path: Path, tensors: Mapping[str, Tensor], model: FEATConfig) -> None:
    if faults := mismatches(tensors, state_schema(model)):
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise CheckpointError(
            f"{path}: the tensors are not the model's: {'; '.join(faults[:4])}{more}"
        )


def _fingerprint(path: Path, tensors: Mapping[str, Tensor], model: FEATConfig) -> str:
    """Return the fingerprint of a header's model, unless it is none that a file could hold."""
    trios = {name.split(".")[1] for name in tensors if name.startswith("trios.")}
    try:
        if len(trios) == model.num_trios:
            return fingerprint(model)
    except (RuntimeError, TypeError, OverflowError):  # how torch refuses absurd sizes
        pass
    raise CheckpointError(
        f"{path} is damaged: its header tells of a network that its tensors are not; {_AGAIN}"
    )


def _difference(found: FEATConfig, wanted: FEATConfig) -> str:
    theirs, ours = found.model_dump(), wanted.model_dump()
    return ", ".join(
        f"{key} {theirs[key]}, not {ours[key]}" for key in ours if theirs[key] != ours[key]
    )
