"""From decoded frames to what a codec takes.

Legend: F frames, C colour channels, H and W height and width (here equal).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from torch import Tensor

Fit = Literal["crop", "pad"]

SQUARE_VERSION = 1
"""Raised with every change that gives other numbers; caches are keyed by it."""


def square_video(frames_FHWC: npt.NDArray[np.uint8], *, size_px: int, fit: Fit = "crop") -> Tensor:
    """Make frames square, resize them with antialiasing, and map 0..255 to [-1, 1].

    Parameters
    ----------
    fit
        ``"crop"`` keeps the centre square, as the published data sets do; ``"pad"`` keeps all
        and adds black bars, so that a sector keeps its sides.

    Returns
    -------
    Tensor
        ``video_FCHW``, float32, (F, 3, size_px, size_px).
    """
    square = _centre(frames_FHWC) if fit == "crop" else _padded(frames_FHWC)
    video_FCHW = torch.from_numpy(np.ascontiguousarray(square)).permute(0, 3, 1, 2).float()
    if square.shape[1] != size_px:
        video_FCHW = nnf.interpolate(
            video_FCHW, size=(size_px, size_px), mode="bicubic", antialias=True, align_corners=False
        )
    return video_FCHW.clamp(0, 255) / 127.5 - 1


def _centre(frames_FHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = frames_FHWC.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return frames_FHWC[:, top : top + side, left : left + side]


def _padded(frames_FHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = frames_FHWC.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    rows, columns = (top, side - height - top), (left, side - width - left)
    return np.pad(frames_FHWC, ((0, 0), rows, columns, (0, 0)))
