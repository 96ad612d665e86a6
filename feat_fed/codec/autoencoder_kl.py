"""diffusers' ``AutoencoderKL`` from a folder of this machine; Stable Diffusion's is FEAT's.

FEAT trains on the latents of ``sd-vae-ft-mse``: 4 channels, 8 px a latent pixel, samples of
the moments times ``scaling_factor`` 0.18215 (arXiv 2506.04956). What that loses of medical
frames was not measured here, as its weights were not at hand.

Legend: N frames, C channels, H and W.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL
from torch import Tensor

from feat_fed.codec.learned import FrameAutoencoder
from feat_fed.errors import ConfigError

_CLASS = "AutoencoderKL"


class AutoencoderKLFrames(FrameAutoencoder):
    """diffusers' network with the scale of its own configuration."""

    has_logvar = True

    def __init__(self, network: AutoencoderKL) -> None:
        super().__init__()
        self.network = network
        self.shift = network.config.shift_factor or 0.0
        self.scale = 1 / network.config.scaling_factor

    def encode(self, video_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moments, ``NChw``."""
        moments = self.network.encode(video_NCHW).latent_dist
        return moments.mean, moments.logvar

    def decode(self, raw_NCHW: Tensor) -> Tensor:
        """Return RGB, ``NCHW``."""
        video_NCHW: Tensor = self.network.decode(raw_NCHW).sample
        return video_NCHW


def load_autoencoder_kl(files: Sequence[Path]) -> AutoencoderKLFrames:
    """Read ``config.json`` and the weights beside it; never asks a network for anything.

    Raises
    ------
    ConfigError
        When the folder holds another class, or its weights do not fit its configuration.
    """
    folder = files[0].parent
    _check_class(files[0])
    try:
        network, loaded = AutoencoderKL.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(f"{folder} cannot be read as {_CLASS}: {_first_line(error)}") from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ConfigError(
            f"{folder} is damaged: its weights lack {missing[0]} and {len(missing) - 1} others "
            "that its configuration asks for"
        )
    if (network.config.in_channels, network.config.out_channels) != (3, 3):
        raise ConfigError(f"{folder} is of an autoencoder for other frames than RGB")
    return AutoencoderKLFrames(network)


def _check_class(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {_first_line(error)}") from error
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != _CLASS:
        raise ConfigError(f"{path} configures {found!r}, where {_CLASS} was expected")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
