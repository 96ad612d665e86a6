"""A small learned codec that nobody trained, for tests of what uses codecs."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL

from feat_fed.codec.files import weights_hash
from feat_fed.config import CodecConfig, MonaiKLConfig

MONAI = MonaiKLConfig(
    channels=(4, 8),
    latent_channels=3,
    num_res_blocks=1,
    attention_levels=(False, True),
    norm_num_groups=2,
)


def monai_file(folder: Path, nest: str | None = None, config: MonaiKLConfig = MONAI) -> Path:
    """Write a checkpoint of ``config``'s network, its state under the name ``nest``, if any."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    fields = config.model_dump(exclude={"unit_range"})
    network = AutoencoderKL(spatial_dims=2, out_channels=config.in_channels, **fields)
    path = folder / "ae.pt"
    torch.save({nest: network.state_dict()} if nest else network.state_dict(), path)
    return path


def monai_codec(weights: Path) -> CodecConfig:
    """Return the codec of :func:`monai_file`'s file."""
    return CodecConfig(
        kind="monai-kl", weights=weights, weights_sha256=weights_hash([weights]), monai=MONAI
    )
