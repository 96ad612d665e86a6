"""Weights files: tensor files that say what they are (``kind``) and of which model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError
from feat_fed.model.state import fingerprint, mismatches, state_schema
from feat_fed.tensor_file import read_tensor_file, write_tensor_file


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
) -> str:
    """Write a model's weights atomically and durably.

    Parameters
    ----------
    path
        The file; its folder is made where it is missing.
    tensors
        A full state of ``model``.
    kind
        What the weights are, such as ``global``, ``ema`` or ``local``.
    model
        Their model.
    metadata
        Free short strings, such as the round.

    Returns
    -------
    str
        The SHA-256 that the file holds of its content.

    Raises
    ------
    CheckpointError
        If the tensors are not the model's, or the file cannot be written.
    """
    _refuse_mismatch(path, tensors, model)
    header = _Header(
        kind=kind, model=model, fingerprint=fingerprint(model), metadata=dict(metadata or {})
    )
    return write_tensor_file(path, tensors, header)


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
    header, tensors = read_tensor_file(path, _Header)
    if kind is not None and header.kind != kind:
        raise CheckpointError(f"{path} holds {header.kind!r} weights, not {kind!r}")
    if model is not None and header.model != model:
        raise CheckpointError(f"{path} is of another model: {_difference(header.model, model)}")
    if header.fingerprint != _fingerprint(path, tensors, header.model):
        raise CheckpointError(f"{path} was written by a feat-fed whose network has other tensors")
    _refuse_mismatch(path, tensors, header.model)
    return Weights(tensors, header.kind, header.model, header.metadata)


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
        f"{path} is damaged: its header tells of a network that its tensors are not; fetch or "
        "write it again"
    )


def _difference(found: FEATConfig, wanted: FEATConfig) -> str:
    theirs, ours = found.model_dump(), wanted.model_dump()
    return ", ".join(
        f"{key} {theirs[key]}, not {ours[key]}" for key in ours if theirs[key] != ours[key]
    )
