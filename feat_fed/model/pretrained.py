"""A network as a folder of diffusers' layout: ``config.json`` beside its safetensors.

Tools that know diffusers' folders know these. The reading and writing is our own: diffusers'
``ModelMixin`` doubles the time and the memory of importing the network, keeps a configuration
that anything may be written into, and reads weights that nothing vouches for. Ours are
:mod:`feat_fed.model.checkpoint`'s, with its header and digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import FEATConfig
from feat_fed.errors import CheckpointError
from feat_fed.model.checkpoint import read_weights, write_weights
from feat_fed.model.feat import FEAT

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
MODEL_FOLDER = "model"
"""Where a pipeline's folder keeps its network."""

_KIND = "pretrained"
_MOST_BYTES = 1 << 20


def save_model(model: FEAT, folder: Path) -> None:
    """Write the network into ``folder``, which is made if need be.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    make_folder(folder)
    write_weights(folder / WEIGHTS_FILE, model.state_dict(), kind=_KIND, model=model.config)
    write_config(folder / CONFIG_FILE, "FEAT", model.config.model_dump(mode="json"))


def load_model(folder: Path) -> FEAT:
    """Return the network of a folder, or of the pipeline in it, in evaluation mode.

    Raises
    ------
    CheckpointError
        If a file is absent, damaged, foreign, or does not fit the other one.
    """
    inner = folder / MODEL_FOLDER
    if not (folder / CONFIG_FILE).exists() and (inner / CONFIG_FILE).exists():
        folder = inner
    path = folder / CONFIG_FILE
    _, fields = read_config(path, ["FEAT"])
    try:
        config = FEATConfig.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a FEAT's: {first_fault(error)}") from None
    weights = read_weights(folder / WEIGHTS_FILE, kind=_KIND, model=config)
    model = FEAT(config)
    model.load_state_dict(weights.tensors)
    return model.eval()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    CheckpointError
        If that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the folder {folder} cannot be made: {error}") from error


def write_config(path: Path, class_name: str, fields: Mapping[str, Any]) -> None:
    """Write a JSON file of diffusers' kind, which says the class that it configures.

    Raises
    ------
    CheckpointError
        If it cannot be written.
    """
    tree = {"_class_name": class_name, "_diffusers_version": version("diffusers")}
    tree |= {name: each for name, each in fields.items() if not name.startswith("_")}
    try:
        write_bytes_atomically(path, json.dumps(tree, indent=2).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def read_config(path: Path, class_names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return class and fields of a file of :func:`write_config`, less those that begin with ``_``.

    Raises
    ------
    CheckpointError
        If the file is absent, is no JSON object, or configures another class than these.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        fields = json.loads(text) if len(text) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is damaged: it is not a JSON object")
    found = fields.get("_class_name")
    if not isinstance(found, str) or found not in class_names:
        raise CheckpointError(
            f"{path} configures {ascii(found)[:80]}, where {' or '.join(class_names)} was expected"
        )
    return found, {name: each for name, each in fields.items() if not name.startswith("_")}


def first_fault(error: ValidationError) -> str:
    """Return the first field that is wrong, and why, fit for a terminal."""
    first = error.errors(include_url=False)[0]
    where = ascii(".".join(map(str, first["loc"])))[1:81]
    return f"{where}: {first['msg']}"
