"""From a configuration to a codec."""

from __future__ import annotations

from feat_fed.codec.base import VideoCodec
from feat_fed.codec.wavelet import WaveletCodec
from feat_fed.config import CodecConfig


def build_codec(config: CodecConfig) -> VideoCodec:
    """Build the codec that ``config.kind`` names.

    Raises
    ------
    ConfigError
        When its numbers do not fit the kind.
    """
    builders = {"wavelet": WaveletCodec}
    return builders[config.kind](config)
