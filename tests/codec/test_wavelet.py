"""The codec: adjoint, projection, mirror images, scale, and what it loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from feat_fed.codec import VideoCodec, WaveletCodec, build_codec, flip_latent
from feat_fed.config import CodecConfig
from feat_fed.data import read_clip
from feat_fed.data.frames import square_video
from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.errors import ConfigError
from shared_files import media

SHAPE = Shape(frames=8, size_px=128, fps=25.0)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def phantoms(size_px: int = 64) -> Tensor:
    draws = (echo_clip, endoscopy_clip)
    clips = [draw(SHAPE, gain=1.0, rng=np.random.default_rng(n)) for draw in draws for n in (0, 1)]
    return torch.stack([square_video(clip, size_px=size_px) for clip in clips])


def psnr_db(video: Tensor, codec: VideoCodec) -> float:
    """Peak signal-to-noise ratio of encoded and decoded video, whose range is 2."""
    error = (codec.decode(codec.encode(video).mean) - video).square().mean()
    return float(10 * torch.log10(4 / error))


@pytest.mark.parametrize(("levels", "details"), [(1, 0), (2, 3), (2, 9), (3, 5)])
def test_synthesis_is_the_adjoint_and_analysis_undoes_it(levels: int, details: int) -> None:
    codec = WaveletCodec(CodecConfig(levels=levels, detail_channels=details))
    video = noise(2, 3, 3, 32, 48)
    frames, channels, height, width = codec.latent_shape(3, 32, 48)
    assert (frames, channels) == (3, 3 + details) and channels == codec.latent_channels
    latent = noise(2, frames, channels, height, width)
    assert codec.analyse(video).shape == latent.shape
    torch.testing.assert_close(
        (codec.analyse(video) * latent).sum(), (video * codec.synthesise(latent)).sum()
    )
    torch.testing.assert_close(codec.analyse(codec.synthesise(latent)), latent)


def test_nothing_is_lost_with_all_bands_of_one_level() -> None:
    codec = build_codec(CodecConfig(levels=1, detail_channels=9))
    video = noise(1, 2, 3, 16, 16).clamp(-1, 1)
    torch.testing.assert_close(codec.decode(codec.encode(video).mean), video)


@pytest.mark.parametrize(("levels", "details"), [(1, 9), (2, 3), (2, 9), (3, 4)])
def test_mirrored_latent_is_the_mirrored_clips_latent(levels: int, details: int) -> None:
    codec = WaveletCodec(CodecConfig(levels=levels, detail_channels=details))
    video = noise(1, 2, 3, 32, 64)
    mirrored = codec.encode(video.flip(-1)).mean
    torch.testing.assert_close(flip_latent(codec.encode(video).mean, codec.flip_signs), mirrored)
    assert not torch.allclose(mirrored, codec.encode(video).mean)


def test_latents_of_ordinary_clips_have_about_unit_variance() -> None:
    for size_px, levels in ((64, 2), (128, 3)):
        codec = build_codec(CodecConfig(levels=levels, detail_channels=3))
        z = codec.encode(phantoms(size_px)).mean.movedim(2, 0).flatten(1)
        assert (z.mean(1).abs() < 1).all()
        assert ((z.std(1) > 0.5) & (z.std(1) < 2)).all()


def test_what_it_loses() -> None:
    video = phantoms()
    kept = build_codec(CodecConfig())
    averages = build_codec(CodecConfig(detail_channels=0))
    assert 26 < psnr_db(video[:2], kept) < 29  # heart: speckle is as fine as the pixels
    assert 31 < psnr_db(video[2:], kept) < 35
    assert psnr_db(video, averages) < psnr_db(video, kept) - 2


def test_what_it_loses_of_a_real_endoscopy() -> None:
    clip = read_clip(media("endo/rvim_endo.mp4"), num_frames=4)
    video = square_video(clip.frames_THWC, size_px=64)[None]
    assert 29 < psnr_db(video, build_codec(CodecConfig())) < 32


def test_grey_stays_grey_and_range_is_kept() -> None:
    codec = build_codec(CodecConfig())
    assert codec.decode(1000 * noise(1, 1, 6, 8, 8)).abs().max() <= 1
    decoded = codec.decode(codec.encode(phantoms()[:1]).mean)
    assert (decoded - decoded.mean(2, keepdim=True)).abs().max() < 1e-5


def test_fingerprints_differ_where_latents_do() -> None:
    configs = [CodecConfig(levels=n, detail_channels=d) for n in (1, 2) for d in (0, 3, 9)]
    assert len({build_codec(config).fingerprint for config in configs}) == len(configs)
    assert build_codec(configs[0]).fingerprint == build_codec(configs[0]).fingerprint


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"detail_channels is 10, but one level .* has 9"):
        build_codec(CodecConfig(detail_channels=10))
    with pytest.raises(ConfigError, match="66 x 64 px does not divide by 4"):
        build_codec(CodecConfig()).latent_shape(1, 66, 64)
