"""Each way to prepare frames against the code of its reference, written out."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from PIL import Image

from feat_fed.evaluate.prepare import fit_crop, prepare_frames
from feat_fed.evaluate.protocol import FramesConfig
from feature_files import jpeg, videos

SIZES = [(150, 201), (201, 150), (128, 128), (97, 97), (64, 200)]


def stylegan_v(frame: np.ndarray, folder: Path) -> np.ndarray:
    """Shorter side to 128 by Lanczos, centre crop, a JPEG file: torchvision on Pillow images."""
    height, width = frame.shape[:2]
    short, long = min(height, width), max(height, width)
    new_long = int(128 * long / short)
    new = (128, new_long) if width <= height else (new_long, 128)
    image = Image.fromarray(frame)
    image = image if short == 128 else image.resize(new, Image.LANCZOS)
    top, left = round((image.height - 128) / 2.0), round((image.width - 128) / 2.0)
    return jpeg(np.array(image.crop((left, top, left + 128, top + 128))), folder)


def cd_fvd(video: np.ndarray, resolution: int) -> np.ndarray:
    x = torch.from_numpy(video).permute(0, 3, 1, 2).float() / 255.0
    h, w = x.shape[2:]
    scale = resolution / min(h, w)
    size = (resolution, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), resolution)
    x = nnf.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (x.shape[2] - resolution) // 2, (x.shape[3] - resolution) // 2
    x = x[:, :, top : top + resolution, left : left + resolution]
    return (x * 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_lanczos_and_jpeg_are_those_of_stylegan_v(size: tuple[int, int], tmp_path: Path) -> None:
    video = videos(1, frames=2, size=size)[0]
    config = FramesConfig(resize="pillow-lanczos", size_px=128, jpeg_quality=75)
    expected = np.stack([stylegan_v(frame, tmp_path) for frame in video])
    np.testing.assert_array_equal(prepare_frames(video, config, (128, 128)), expected)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_is_that_of_cd_fvd(size: tuple[int, int]) -> None:
    video = videos(1, frames=2, size=size)[0]
    config = FramesConfig(resize="torch-bilinear-truncated", size_px=96)
    found = prepare_frames(video, config, (96, 96))
    np.testing.assert_array_equal(found, cd_fvd(video, 96))


def test_frames_of_the_right_size_are_left_alone() -> None:
    video = videos(1, frames=2, size=(48, 64))[0]
    config = FramesConfig(resize="torch-bilinear")
    np.testing.assert_array_equal(prepare_frames(video, config, (48, 64)), video)


@pytest.mark.parametrize("size", SIZES)
def test_any_frame_covers_any_target(size: tuple[int, int]) -> None:
    video = videos(1, frames=1, size=size)[0]
    for resize in ("torch-bilinear", "pillow-lanczos"):
        config = FramesConfig(resize=resize)
        assert prepare_frames(video, config, (48, 80)).shape == (1, 48, 80, 3)


def test_networks_get_the_centre_square() -> None:
    x = torch.rand(2, 3, 90, 120)
    scaled = nnf.interpolate(
        x, size=(224, math.ceil(120 * 224 / 90)), mode="bilinear", align_corners=False
    )
    left = (scaled.shape[3] - 224) // 2
    torch.testing.assert_close(fit_crop(x, 224), scaled[:, :, :, left : left + 224])
