"""From a configuration to a codec."""

from __future__ import annotations

from pathlib import Path

import torch

from feat_fed.codec.base import VideoCodec
from feat_fed.codec.files import verified_files
from feat_fed.codec.learned import FrameAutoencoder, LearnedCodec
from feat_fed.codec.tiny import load_tiny
from feat_fed.codec.wavelet import WaveletCodec
from feat_fed.config import CodecConfig


def build_codec(
    config: CodecConfig,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> VideoCodec:
    """Build the codec that ``config.kind`` names.

    Parameters
    ----------
    weights
        File or folder of a learned codec on this machine, in place of ``config.weights``; its
        SHA-256 must be the study's. Nothing is ever downloaded.

    Raises
    ------
    ConfigError
        When the numbers do not fit the kind, or the weights are absent, others, or of
        another architecture.
    """
    if config.kind == "wavelet":
        return WaveletCodec(config)
    files = verified_files(config, weights or config.weights)
    return LearnedCodec(config, _load(config, files)).to(device)


def _load(config: CodecConfig, files: tuple[Path, ...]) -> FrameAutoencoder:
    """Read the network; its library is imported only for a codec that needs it."""
    if config.kind == "tiny":
        return load_tiny(files)
    if config.monai:
        from feat_fed.codec.monai_kl import load_monai_kl

        return load_monai_kl(files, config.monai)
    from feat_fed.codec.autoencoder_kl import load_autoencoder_kl

    return load_autoencoder_kl(files)
