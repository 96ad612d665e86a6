"""MONAI's ``AutoencoderKL`` from a checkpoint; the study says how it was built.

What it loses is a matter of what it was trained on: a hospital group's own autoencoder goes
here. Frames are coded one by one, in two dimensions.

Legend: N frames, C channels, H and W.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor

from feat_fed.codec.files import load_strictly, read_state
from feat_fed.codec.learned import FrameAutoencoder
from feat_fed.config import MonaiKLConfig
from feat_fed.errors import ConfigError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class MonaiKLFrames(FrameAutoencoder):
    """MONAI's network for grey or coloured frames."""

    has_logvar = True

    def __init__(self, config: MonaiKLConfig) -> None:
        super().__init__()
        fields = config.model_dump(exclude={"unit_range"})
        self.network = AutoencoderKL(spatial_dims=2, out_channels=config.in_channels, **fields)
        self._grey, self._unit_range = config.in_channels == 1, config.unit_range
        self.register_buffer("_luma", torch.tensor(_LUMA)[:, None, None], persistent=False)

    def encode(self, video_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments, ``NChw``."""
        if self._grey:
            video_NCHW = (video_NCHW * self.get_buffer("_luma")).sum(1, keepdim=True)
        mean, sigma = self.network.encode((video_NCHW + 1) / 2 if self._unit_range else video_NCHW)
        return mean, 2 * sigma.log()

    def decode(self, raw_NCHW: Tensor) -> Tensor:
        """Return RGB, ``NCHW``."""
        decoded: Tensor = self.network.decode(raw_NCHW)
        video_NCHW = decoded * 2 - 1 if self._unit_range else decoded
        return video_NCHW.expand(-1, 3, -1, -1)


def load_monai_kl(files: Sequence[Path], config: MonaiKLConfig) -> MonaiKLFrames:
    """Build the network and read its weights.

    Raises
    ------
    ConfigError
        When MONAI refuses the arguments, or the checkpoint is of another network.
    """
    try:
        frames = MonaiKLFrames(config)
    except (ValueError, IndexError) as error:
        raise ConfigError(f"codec.monai does not make MONAI's AutoencoderKL: {error}") from error
    load_strictly(frames.network, read_state(files[0]), files[0])
    return frames
