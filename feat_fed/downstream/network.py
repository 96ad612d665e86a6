"""The classifier: MONAI's 3D ResNet-10 on windows of a clip.

Legend: B windows, T frames, S side in pixels, 3 colour channels, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from feat_fed.downstream.settings import NetworkName
from feat_fed.errors import CheckpointError

_WIDTHS: dict[NetworkName, int] = {"small": 8, "resnet10": 64}
_HEAD = "fc."


def make_network(
    name: NetworkName, *, num_classes: int, seed: int, weights: Path | None = None
) -> nn.Module:
    """Make a ResNet-10 of 3D convolutions (arXiv 1711.09577), initialised from a seed.

    ``small`` has 8 to 64 channels, ``resnet10`` 64 to 512. Space is halved five times, time four.

    Parameters
    ----------
    weights
        A state dict of this network, ``.safetensors`` or what ``torch.load(weights_only=True)``
        reads, such as MedicalNet's ``resnet_10_23dataset.pth`` for ``resnet10``. Its head is left
        out; filters for one channel of grey are spread over three of colour.

    Raises
    ------
    CheckpointError
        When ``weights`` are not there, unreadable or of another network.
    """
    from monai.networks.nets.resnet import ResNet

    width = _WIDTHS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = cast(
            nn.Module,
            ResNet(
                "basic",
                [1, 1, 1, 1],
                [width, 2 * width, 4 * width, 8 * width],
                n_input_channels=3,
                conv1_t_size=7,
                conv1_t_stride=(1, 2, 2),
                num_classes=num_classes,
            ),
        )
    if weights is not None:
        _load(network, weights, name)
    return network


def to_input(windows_BTSS3: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return windows as float32 (B, 3, T, S, S), 0..255 mapped to [-1, 1]."""
    video = torch.from_numpy(np.ascontiguousarray(windows_BTSS3)).to(device)
    return video.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0)


def _load(network: nn.Module, path: Path, name: NetworkName) -> None:
    given = {key.removeprefix("module."): each for key, each in _read(path).items()}
    own = network.state_dict()
    stem = given.get("conv1.weight")
    if stem is not None and stem.ndim == 5 and stem.shape[1] == 1:
        given["conv1.weight"] = stem.expand(-1, 3, -1, -1, -1) / 3
    for key in [key for key in own if key.startswith(_HEAD)]:
        given[key] = own[key]
    for key, tensor in own.items():
        found = given.get(key)
        if found is None or found.shape != tensor.shape:
            is_there = "is missing" if found is None else f"is {tuple(found.shape)}"
            raise CheckpointError(
                f"{path}: {key} {is_there}, not {tuple(tensor.shape)}: these are no weights of "
                f"{name}; leave out --weights, or name others (--network)"
            )
    if unknown := sorted(given.keys() - own.keys()):
        raise CheckpointError(
            f"{path}: {unknown[0]} and {len(unknown) - 1} more are not in {name}; leave out "
            "--weights, or name others (--network)"
        )
    network.load_state_dict(given)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; correct --weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; fetch it again") from None
    except Exception:  # torch names no common base of what a damaged or unsafe file raises
        raise CheckpointError(
            f"{path} holds no plain weights, or is damaged; fetch it again or convert it to "
            "safetensors"
        ) from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    if not state or not all(isinstance(each, Tensor) for each in state.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors; correct --weights")
    return cast(dict[str, Tensor], state)
