"""Weights of a codec on disk: which files they are, their hash, and reading them safely."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.config import CodecConfig
from feat_fed.errors import ConfigError

_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
_MOST_LISTED = 20

CONFIG_FILE = "config.json"


def weights_files(kind: str, weights: Path) -> tuple[Path, ...]:
    """Return the files that a learned codec of this kind is read from, sorted by name.

    ``autoencoder-kl``: a folder's ``config.json`` and ``diffusion_pytorch_model*.safetensors``.
    ``tiny``: a folder's one ``*encoder`` and one ``*decoder`` file. ``monai-kl``: a file.

    Raises
    ------
    ConfigError
        When they are not there.
    """
    if kind == "monai-kl":
        if not weights.is_file():
            raise ConfigError(f"the codec's weights {weights} are not there; name a file")
        return (weights,)
    if not weights.is_dir():
        raise ConfigError(
            f"the codec's weights {weights} are not there; name a folder of this machine "
            "(nothing is downloaded)"
        )
    if kind == "tiny":
        return tuple(sorted((coder_file(weights, "decoder"), coder_file(weights, "encoder"))))
    parts = sorted(weights.glob("diffusion_pytorch_model*.safetensors"))
    if not (weights / CONFIG_FILE).is_file() or not parts:
        raise ConfigError(
            f"{weights} is no folder of diffusers' AutoencoderKL: it needs {CONFIG_FILE} and "
            "diffusion_pytorch_model.safetensors"
        )
    return (weights / CONFIG_FILE, *parts)


def coder_file(folder: Path, half: str) -> Path:
    """Return the folder's one weights file whose name ends in ``half``."""
    found = [
        each
        for each in folder.iterdir()
        if each.stem.endswith(half) and each.suffix in _WEIGHTS_SUFFIXES
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{folder} holds {len(found)} files *{half} ({', '.join(_WEIGHTS_SUFFIXES)}); a tiny "
            "autoencoder is one file for the encoder and one for the decoder"
        )
    return found[0]


def weights_hash(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the list of several that ``sha256sum`` prints.

    Raises
    ------
    ConfigError
        When one cannot be read.
    """
    hashes = [_file_hash(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    listed = "".join(f"{each}  {path.name}\n" for each, path in zip(hashes, files, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()


def verified_files(config: CodecConfig, weights: Path | None) -> tuple[Path, ...]:
    """Return the files of a learned codec once they have the hash that the study names.

    Raises
    ------
    ConfigError
        When no weights are named, or those are absent or others.
    """
    if weights is None:
        raise ConfigError(
            f"the study's codec is {config.kind}, whose weights are not named here: a site sets "
            "codec_weights, a study codec.weights, a sampling command --codec-weights"
        )
    files = weights_files(config.kind, weights)
    found = weights_hash(files)
    if found != config.weights_sha256:
        raise ConfigError(
            f"{weights} has the SHA-256 {found} and the study's codec (codec.weights_sha256) "
            f"{config.weights_sha256}; get the study's weights, or correct the study"
        )
    return files


def read_state(path: Path) -> dict[str, Tensor]:
    """Return a state dict without running anything that the file says.

    A training checkpoint that holds it as ``state_dict`` or ``model`` is taken, too.

    Raises
    ------
    ConfigError
        When the file holds no tensors, or more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {type(error).__name__}") from error
    for name in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state:
        raise ConfigError(f"{path} holds no state dict")
    if not all(isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()):
        raise ConfigError(f"{path} holds other things than named tensors")
    return state


def load_strictly(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put the state into the network.

    Raises
    ------
    ConfigError
        When names or shapes differ.
    """
    own = network.state_dict()
    wrong = sorted(own.keys() ^ state.keys())
    wrong += sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    if wrong:
        more = ", ..." if len(wrong) > _MOST_LISTED else ""
        raise ConfigError(
            f"{path} is of another architecture than the study's codec; different are "
            f"{', '.join(wrong[:_MOST_LISTED])}{more}"
        )
    network.load_state_dict(state)


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"the codec's weights {path} cannot be read: {error.strerror}") from error
