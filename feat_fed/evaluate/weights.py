"""Files of weights that users bring: what is expected, and the check before one is opened.

Nothing is downloaded. A TorchScript file is a program of whoever made it and runs with the rights
of this process, so its SHA-256 must be given, and is compared with the very bytes that are loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feat_fed.errors import CheckpointError, ConfigError
from feat_fed.evaluate.protocol import NetworkName

_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class WeightsFile:
    """A file that is published.

    Parameters
    ----------
    sha256
        As many who use it state it; ``None`` where no statement was found.
    """

    name: str
    what: str
    source: str
    sha256: str | None
    is_program: bool = False


PUBLISHED: Mapping[NetworkName, WeightsFile] = {
    "i3d-torchscript": WeightsFile(
        "i3d_torchscript.pt",
        "I3D of Kinetics-400 as TorchScript, of StyleGAN-V, 51235320 bytes",
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        is_program=True,
    ),
    "i3d-state-dict": WeightsFile(
        "i3d_pretrained_400.pt",
        "I3D of Kinetics-400 as a state dict of pytorch-i3d, of VideoGPT and cd-fvd",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        None,
    ),
    "inception": WeightsFile(
        "inception-2015-12-05.pt",
        "Inception-v3 of 2015-12-05 as TorchScript, of StyleGAN2-ADA, 95607719 bytes",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
        "inception-2015-12-05.pt",
        "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        is_program=True,
    ),
    "videomae-g": WeightsFile(
        "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        "VideoMAE v2 ViT-g of Something-Something v2 as a state dict, 2023804201 bytes",
        "https://huggingface.co/OpenGVLab/VideoMAE2, mae-g/",
        "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
    ),
}


def how_to_get(name: NetworkName) -> str:
    """Return what to fetch for a network, from where, and how to name it."""
    file = PUBLISHED[name]
    known = (
        f"its SHA-256 should be {file.sha256}"
        if file.sha256
        else "no SHA-256 of it is published: state the one that you find, so that it cannot change"
    )
    return (
        f"{name} needs {file.name} ({file.what}): fetch it from {file.source}, {known}; then give "
        f"its path and SHA-256. Nothing is downloaded by feat-fed"
    )


def is_published(name: NetworkName, sha256: str) -> bool:
    """Tell whether a file may be what is published: the digest agrees, or none is known."""
    return name not in PUBLISHED or PUBLISHED[name].sha256 in (None, sha256)


def load_program(name: NetworkName, path: Path, sha256: str | None) -> tuple[Any, str]:
    """Load TorchScript whose digest was given; return the module and its SHA-256.

    Raises
    ------
    ConfigError
        When the file is not there, no SHA-256 is given or another file has it.
    CheckpointError
        When it is not TorchScript.
    """
    _need(name, path)
    if sha256 is None:
        raise ConfigError(
            f"{name}: {path} is TorchScript, a program of whoever made it; give its SHA-256, so "
            f"that no other is run. {how_to_get(name)}"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    _compare(name, path, found, sha256)
    try:
        with warnings.catch_warnings():
            # torch calls the format deprecated; what is published is in it.
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
            return program, found
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name}: {path} is not a TorchScript file ({_first_line(error)}). {how_to_get(name)}"
        ) from None


def load_state_dict(
    name: NetworkName, path: Path, sha256: str | None
) -> tuple[dict[str, Tensor], str]:
    """Load a state dict, of tensors and nothing else; return it and the file's SHA-256.

    Raises
    ------
    ConfigError
        When the file is not there, or not the one whose SHA-256 was given.
    CheckpointError
        When it holds no state dict.
    """
    _need(name, path)
    found = _sha256_of(path)
    if sha256 is not None:
        _compare(name, path, found, sha256)
    zipped = zipfile.is_zipfile(path)  # not so what torch wrote before 1.6
    if zipped and _is_program(path):
        raise CheckpointError(
            f"{name}: {path} is a TorchScript file and no state dict. {how_to_get(name)}"
        )
    try:
        # Codes of the MAE family save their options beside the tensors; a Namespace runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:  # torch's own words advise to load it all the same
        raise CheckpointError(
            f"{name}: {path} is not a file of weights: it is damaged, or holds more than tensors, "
            f"which might run code. {how_to_get(name)}"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"{name}: {path} is not a file of weights ({_first_line(error)}). {how_to_get(name)}"
        ) from None
    for wrapper in ("model", "module", "state_dict"):
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    if not isinstance(tree, dict) or not all(isinstance(each, Tensor) for each in tree.values()):
        raise CheckpointError(f"{name}: {path} holds no state dict. {how_to_get(name)}")
    return tree, found


def filled(
    name: NetworkName, path: Path, build: Callable[[], torch.nn.Module], state: dict[str, Tensor]
) -> torch.nn.Module:
    """Return a network, in float32, with a state dict that it must match by name and shape.

    The counters of batch normalisation may be missing, as in files of torch before 0.4. No
    random number is drawn.

    Raises
    ------
    CheckpointError
        When a tensor is missing, unknown, or of another shape; the first is named.
    """
    with torch.device("meta"):
        module = build()
    wanted = module.state_dict()
    wrong = [
        *(f"{key} is missing" for key in wanted if key not in state and not _is_counter(key)),
        *(f"{key} is unknown" for key in state if key not in wanted),
        *(
            f"{key} is {tuple(state[key].shape)} and not {tuple(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ),
    ]
    if wrong:
        raise CheckpointError(
            f"{name}: {path} is of another network: {wrong[0]} ({len(wrong)} differences). "
            f"{how_to_get(name)}"
        )
    counters = {key: torch.zeros((), dtype=torch.int64) for key in wanted if _is_counter(key)}
    copies = {
        key: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in state.items()
    }
    module.load_state_dict(counters | copies, assign=True)
    return module


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _is_program(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(each.endswith("/constants.pkl") for each in archive.namelist())


def _need(name: NetworkName, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}. {how_to_get(name)}")


def _compare(name: NetworkName, path: Path, found: str, wanted: str) -> None:
    if found != wanted.strip().lower():
        raise ConfigError(
            f"{name}: {path} has SHA-256 {found} and not {wanted}; it was not opened. Give the "
            f"right file, or the digest of this one if you trust it. {how_to_get(name)}"
        )


def _sha256_of(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
