r"""Tiny autoencoders for frames (the taesd family), as their weights describe them.

The family's public weights (MIT, madebyollin/taesd) are two sequences of layers whose places
number the tensors. So the numbers tell the layers: an entry ``conv`` is a residual block
relu(conv3(x) + x) of three convolutions, one with ``pool`` first adds to x what a bottleneck
over normalised groups of channels makes of it; a convolution without bias changes the size
by two (in the encoder by its stride, in the decoder after repeating pixels). Places without
tensors are the decoder's 3 tanh(x / 3) on the latent, the ReLU after its first convolution, and
the repetitions. Frames are RGB in [0, 1], and there is no log-variance.

Mean PSNR in dB of ``taef2`` (32 channels, 8 px a latent pixel), encoded and decoded at 128 px,
and of the mirrored latent decoded, which is why mirrored clips are encoded anew. Its latents have
standard deviations of 0.5 to 1.0 there, with means up to 0.7.

===================================== ========= ==========
source                                as it is  mirrored
===================================== ========= ==========
lung ultrasound, 31 clips             37.3      29.6
endoscopy, real                       31.4      21.7
DICOM ultrasound cines, 5             29.3      21.8
eye ultrasound, 2 clips               33.1      24.9
heart phantom                         32.8      18.0
endoscopy phantom                     33.3      23.2
===================================== ========= ==========

Legend: N frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from feat_fed.codec.files import load_strictly, read_state
from feat_fed.codec.learned import FrameAutoencoder
from feat_fed.errors import ConfigError

_MOST_LAYERS = 100
_POOL_GROUPS = 4  # of the normalisation in a bottleneck


class LatentClamp(nn.Module):
    """3 tanh(x / 3): what a latent far outside its range is brought to."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return 3 * torch.tanh(x / 3)


class ResidualBlock(nn.Module):
    """relu(conv3(x') + x') with x' = x, or x + pool(x) of a block with ``pool_channels``."""

    def __init__(self, channels: int, pool_channels: int | None) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.pool = None if pool_channels is None else _bottleneck(channels, pool_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class TinyFrames(FrameAutoencoder):
    """An encoder and a decoder of the family."""

    has_logvar = False

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, video_NCHW: Tensor) -> tuple[Tensor, None]:
        """Return the latent, ``NChw``."""
        return self.encoder((video_NCHW + 1) / 2), None

    def decode(self, raw_NCHW: Tensor) -> Tensor:
        """Return RGB, ``NCHW``."""
        video_NCHW: Tensor = self.decoder(raw_NCHW) * 2 - 1
        return video_NCHW


def load_tiny(files: Sequence[Path]) -> TinyFrames:
    """Read the decoder's and the encoder's file, in this order.

    Raises
    ------
    ConfigError
        When they are no sequences of such layers.
    """
    coders = []
    for path, decodes in zip(files, (True, False), strict=True):
        state = read_state(path)
        coders.append(coder_of(state, path, decodes=decodes))
        load_strictly(coders[-1], state, path)
    decoder, encoder = coders
    return TinyFrames(encoder, decoder)


def coder_of(state: Mapping[str, Tensor], path: Path, *, decodes: bool) -> nn.Sequential:
    """Return the layers, not yet filled, that the tensors' names and shapes tell.

    Raises
    ------
    ConfigError
        When they tell none, or not from frames to latents (or back).
    """
    places = [name.split(".")[0] for name in state]
    last = int(max(places, key=lambda each: int(each))) if all(map(str.isdigit, places)) else -1
    if not 0 < last < _MOST_LAYERS:
        raise ConfigError(f"{path} is no tiny autoencoder: its tensors are not numbered by layer")
    layers: list[nn.Module] = []
    for place in range(last + 1):
        if str(place) in places:
            layers.append(_layer(state, f"{place}.", path, decodes=decodes))
        else:
            layers.append(_layer_without_weights(layers))
    convolutions = [each for each in layers if isinstance(each, nn.Conv2d)]
    ends = (convolutions[0].in_channels, convolutions[-1].out_channels) if convolutions else (0, 0)
    if ends[decodes] != 3:
        half = "decoder" if decodes else "encoder"
        raise ConfigError(
            f"{path} is no {half} of a tiny autoencoder: it goes from {ends[0]} channels to "
            f"{ends[1]}, and frames have 3"
        )
    return nn.Sequential(*layers)


def _layer(state: Mapping[str, Tensor], at: str, path: Path, *, decodes: bool) -> nn.Module:
    kernel = state.get(f"{at}conv.0.weight", state.get(f"{at}weight"))
    if kernel is None or kernel.ndim != 4:
        raise ConfigError(f"{path} is no tiny autoencoder: its layer {at[:-1]} is unknown")
    channels_out, channels_in = kernel.shape[:2]
    if f"{at}conv.0.weight" in state:
        pool = state.get(f"{at}pool.0.weight")
        return ResidualBlock(channels_in, None if pool is None else len(pool))
    resizes = f"{at}bias" not in state
    stride = 2 if resizes and not decodes else 1
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride, bias=not resizes)


def _bottleneck(channels: int, pool_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, pool_channels, 1, bias=False),
        nn.GroupNorm(_POOL_GROUPS, pool_channels),
        nn.ReLU(),
        nn.Conv2d(pool_channels, channels, 1, bias=False),
    )


def _layer_without_weights(before: Sequence[nn.Module]) -> nn.Module:
    if not before:
        return LatentClamp()
    if isinstance(before[-1], nn.Conv2d):
        return nn.ReLU()
    return nn.Upsample(scale_factor=2)
