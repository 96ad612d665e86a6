"""The networks whose features are compared, behind one interface.

Legend: N clips or frames, T frames, H height, W width, D dimensions, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate import i3d, videomae
from feat_fed.evaluate.prepare import fit_crop
from feat_fed.evaluate.protocol import Fit, NetworkName
from feat_fed.evaluate.random_network import RandomVideoNetwork
from feat_fed.evaluate.weights import filled, how_to_get, load_program, load_state_dict

_SIDE_PX = 224
"""Of what I3D and VideoMAE take."""


class FeatureNetwork(ABC):
    """What turns clips, or single frames, into features.

    Parameters
    ----------
    sha256
        Of the file or, without one, of the weights: recorded with each number.
    """

    name: NetworkName
    takes: Literal["clips", "frames"] = "clips"
    min_frames: int = 1
    max_frames: int | None = None

    def __init__(self, module: nn.Module, sha256: str) -> None:
        self._module = module.eval()
        self.sha256 = sha256

    def to(self, device: torch.device | str) -> Self:
        """Move the network; return itself."""
        self._module.to(device)
        return self

    @torch.inference_mode()
    def features(self, pixels: Tensor, fit: Fit) -> Tensor:
        """Return float32 (N, D) of uint8 pixels on the network's device.

        Parameters
        ----------
        pixels
            (N, T, H, W, 3), or (N, H, W, 3) where the network takes frames.
        fit
            How frames that are not square become so.

        Raises
        ------
        DataError
            When the network cannot take the clips, or gives something else than features.
        """
        self._need_frames(pixels)
        return self._guarded(lambda: self._features(pixels, fit), len(pixels))

    @abstractmethod
    def _features(self, pixels: Tensor, fit: Fit) -> Tensor: ...

    def _guarded(self, compute: Callable[[], object], count: int) -> Tensor:
        """Run what may be a program of somebody else; what it raises or returns is its own."""
        try:
            # TF32 would take convolutions down to ten bits on GPUs.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                found = compute()
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise DataError(
                f"{self.name} failed on clips of this shape, or has another interface: "
                f"{lines[-1].strip() if lines else type(error).__name__}"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != count:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"{self.name} gave {shape} for {count} inputs and not (N, D): it is another "
                "network, or of another interface"
            )
        return found.float()

    def _need_frames(self, pixels: Tensor) -> None:
        if self.takes == "frames":
            return
        frames = pixels.shape[1]
        if frames < self.min_frames or (self.max_frames and frames > self.max_frames):
            needs = (
                f"exactly {self.min_frames}"
                if self.min_frames == self.max_frames
                else f"{self.min_frames} or more"
            )
            raise DataError(
                f"{self.name} takes clips of {needs} frames, and these have {frames}; give longer "
                "videos, another protocol, or do without its metrics"
            )


class _I3DTorchScript(FeatureNetwork):
    """StyleGAN-V's file. It scales and squashes inside, when asked to."""

    name: NetworkName = "i3d-torchscript"
    min_frames = i3d.MIN_FRAMES

    def _features(self, pixels: Tensor, fit: Fit) -> Tensor:
        if fit == "squash":
            video = pixels.permute(0, 4, 1, 2, 3).contiguous()
            scaled = {"rescale": True, "resize": True}
        else:
            video = _squares(pixels, fit) * 2 - 1
            scaled = {"rescale": False, "resize": False}
        features: Tensor = self._module(video, **scaled, return_features=True)
        return features


class _I3DStateDict(FeatureNetwork):
    name: NetworkName = "i3d-state-dict"
    min_frames = i3d.MIN_FRAMES

    def _features(self, pixels: Tensor, fit: Fit) -> Tensor:
        features: Tensor = self._module(_squares(pixels, fit) * 2 - 1)
        return features


class _VideoMAE(FeatureNetwork):
    name: NetworkName = "videomae-g"
    min_frames = max_frames = 16

    def _features(self, pixels: Tensor, fit: Fit) -> Tensor:
        features: Tensor = self._module(_squares(pixels, fit))
        return features


class _Random(FeatureNetwork):
    name: NetworkName = "random"
    min_frames = 2

    def _features(self, pixels: Tensor, fit: Fit) -> Tensor:
        features: Tensor = self._module(pixels.permute(0, 4, 1, 2, 3) / 127.5 - 1)
        return features


class InceptionNetwork(FeatureNetwork):
    """StyleGAN2-ADA's file. It resizes to 299 px inside."""

    name: NetworkName = "inception"
    takes: Literal["clips", "frames"] = "frames"

    def _features(self, pixels: Tensor, fit: Fit) -> Tensor:
        features: Tensor = self._module(_images(pixels), return_features=True)
        return features

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Return logits (N, C) up to a constant, without the last layer's bias, as IS takes them.

        The file gives probabilities; their logarithm has the same softmax.
        """
        probabilities = self._guarded(
            lambda: self._module(_images(pixels), no_output_bias=True), len(pixels)
        )
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


def load_network(
    name: NetworkName, path: Path | None = None, sha256: str | None = None
) -> FeatureNetwork:
    """Load a network from a file of the user's; ``random`` needs none.

    Parameters
    ----------
    sha256
        Of the file, in hex. Compared before it is opened; TorchScript is not opened without.

    Raises
    ------
    ConfigError
        When the file is absent or another than was meant; the message says what to fetch.
    CheckpointError
        When it is damaged or of another network.
    """
    if name == "random":
        network = RandomVideoNetwork()
        return _Random(network, network.sha256)
    if path is None:
        raise ConfigError(how_to_get(name))
    if name == "i3d-torchscript":
        return _I3DTorchScript(*load_program(name, path, sha256))
    if name == "inception":
        return InceptionNetwork(*load_program(name, path, sha256))
    state, found = load_state_dict(name, path, sha256)
    if name == "i3d-state-dict":
        return _I3DStateDict(filled(name, path, i3d.I3D, state), found)
    giant = filled(name, path, lambda: videomae.VideoMAE(videomae.GIANT), state)
    return _VideoMAE(giant, found)


def _squares(pixels_NTHWC: Tensor, fit: Fit) -> Tensor:
    """Return (N, 3, T, 224, 224) in [0, 1], bilinear without antialiasing as the references do."""
    frames = pixels_NTHWC.shape[1]
    images = _images(pixels_NTHWC.flatten(0, 1)).float() / 255
    if fit == "crop":
        images = fit_crop(images, _SIDE_PX)
    else:
        images = nnf.interpolate(images, (_SIDE_PX, _SIDE_PX), mode="bilinear", align_corners=False)
    video_NTCHW = images.reshape(-1, frames, 3, _SIDE_PX, _SIDE_PX)
    return video_NTCHW.transpose(1, 2).contiguous()


def _images(pixels_NHWC: Tensor) -> Tensor:
    return pixels_NHWC.permute(0, 3, 1, 2).contiguous()
