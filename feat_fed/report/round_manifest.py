"""The manifest of a run's round: the last file of it that is written, and what its files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import JsonValue, ValidationError

from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError

Standing = Mapping[str, JsonValue]


class RoundManifest(StrictModel):
    """``checkpoints/round-0003.json``: with it, the round is done."""

    schema_version: Literal[1] = 1
    round: int
    files: dict[str, str]
    """SHA-256 of header and tensors, by the file's name."""
    standing: dict[str, JsonValue]
    clip_norm: float | None = None
    """Of the next round's updates, where the study has central privacy."""


def read_manifest(path: Path) -> RoundManifest:
    """Return a round's manifest.

    Raises
    ------
    CheckpointError
        If it is damaged.
    """
    try:
        return RoundManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from None
