"""From decoded frames to what a codec takes.

Legend: F frames, C colour channels, H and W height and width (here equal).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor

SQUARE_VERSION = 1
"""Raised with every change that gives other numbers; caches are keyed by it."""


def square_video(frames_FHWC: npt.NDArray[np.uint8], *, size_px: int) -> Tensor:
    """Crop the centre square, resize it with antialiasing, and map 0..255 to [-1, 1].

    Returns
    -------
    Tensor
        ``video_FCHW``, float32, (F, 3, size_px, size_px).
    """
    height, width = frames_FHWC.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames_FHWC[:, top : top + side, left : left + side]
    video_FCHW = torch.from_numpy(np.ascontiguousarray(square)).permute(0, 3, 1, 2).float()
    if side != size_px:
        video_FCHW = nnf.interpolate(
            video_FCHW, size=(size_px, size_px), mode="bicubic", antialias=True, align_corners=False
        )
    return video_FCHW.clamp(0, 255) / 127.5 - 1
