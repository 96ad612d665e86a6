"""From stored frames to those that a protocol measures.

Legend: T frames, H height, W width, 3 colour channels (R, G, B).
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from feat_fed.evaluate.protocol import FramesConfig

PREPARE_VERSION = 1
"""Raised with every change that gives other pixels; caches are keyed by it."""

Frames = NDArray[np.uint8]
Size = tuple[int, int]
"""Height and width in pixels."""


def prepare_frames(frames_THWC: Frames, config: FramesConfig, size_px: Size) -> Frames:
    """Return frames of ``size_px``, through a JPEG file each where the protocol has that step."""
    if config.resize == "pillow-lanczos":
        sized = [_lanczos(frame, size_px) for frame in frames_THWC]
    else:
        truncated = config.resize == "torch-bilinear-truncated"
        sized = [_bilinear(frame, size_px, truncated=truncated) for frame in frames_THWC]
    if config.jpeg_quality is not None:
        sized = [_through_jpeg(frame, config.jpeg_quality) for frame in sized]
    return np.stack(sized)


def fit_crop(video_NCHW: Tensor, size_px: int) -> Tensor:
    """Resize the shorter side to ``size_px`` and take the centre square, bilinear, no antialiasing.

    As common_metrics_on_video_quality does before I3D: the longer side is rounded up, the crop
    begins at the lower whole pixel.
    """
    height, width = _covering(video_NCHW.shape[2:], (size_px, size_px))
    sized = nnf.interpolate(video_NCHW, (height, width), mode="bilinear", align_corners=False)
    top, left = (height - size_px) // 2, (width - size_px) // 2
    return sized[:, :, top : top + size_px, left : left + size_px]


def _lanczos(frame_HWC: Frames, size_px: Size) -> Frames:
    """As torchvision resizes and crops Pillow images: the longer side rounded down."""
    target_height, target_width = size_px
    height, width = frame_HWC.shape[:2]
    if height * target_width <= width * target_height:
        height, width = target_height, target_height * width // height
    else:
        height, width = target_width * height // width, target_width
    image = Image.fromarray(frame_HWC)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    # Python rounds halves to even, and torchvision's crop has inherited that.
    top, left = round((height - target_height) / 2), round((width - target_width) / 2)
    return np.asarray(image.crop((left, top, left + target_width, top + target_height)))


def _bilinear(frame_HWC: Frames, size_px: Size, *, truncated: bool) -> Frames:
    """As cd-fvd prepares videos: in float32 of [0, 1], antialiased, the longer side rounded up."""
    if frame_HWC.shape[:2] == size_px and not truncated:
        return frame_HWC
    target_height, target_width = size_px
    height, width = _covering(frame_HWC.shape[:2], size_px)
    pixels = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1)[None] / 255.0
    sized = nnf.interpolate(
        pixels, (height, width), mode="bilinear", align_corners=False, antialias=True
    )[0]
    top, left = (height - target_height) // 2, (width - target_width) // 2
    cut = sized[:, top : top + target_height, left : left + target_width] * 255
    levels = cut if truncated else cut.round()
    return levels.clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _covering(size_px: torch.Size | tuple[int, ...], target_px: Size) -> Size:
    """Return the size, sides in proportion, that covers the target and no more."""
    (height, width), (target_height, target_width) = size_px, target_px
    if height * target_width < width * target_height:
        return target_height, math.ceil(width * (target_height / height))
    return math.ceil(height * (target_width / width)), target_width


def _through_jpeg(frame_HWC: Frames, quality: int) -> Frames:
    """Write a JPEG file (4:2:0, as Pillow does by default) into memory and read it again."""
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
