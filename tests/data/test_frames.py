"""Frames made square: what is kept, and where."""

from __future__ import annotations

import numpy as np
import torch

from feat_fed.data.frames import square_video

WIDE = np.random.default_rng(0).integers(0, 255, (2, 8, 14, 3), np.uint8)


def pixels(video_FCHW: torch.Tensor) -> np.ndarray:
    return torch.round((video_FCHW + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def test_crop_keeps_the_centre() -> None:
    assert (pixels(square_video(WIDE, size_px=8)) == WIDE[:, :, 3:11]).all()


def test_pad_keeps_everything_between_black_bars() -> None:
    square = pixels(square_video(WIDE, size_px=14, fit="pad"))
    assert (square[:, 3:11] == WIDE).all()
    assert square[:, :3].max() == square[:, 11:].max() == 0


def test_both_resize_to_what_is_asked_for() -> None:
    tall = WIDE.swapaxes(1, 2)
    for fit in ("crop", "pad"):
        video = square_video(tall, size_px=4, fit=fit)
        assert video.shape == (2, 3, 4, 4)
        assert video.abs().max() <= 1
