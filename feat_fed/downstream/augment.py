"""Weak and strong augmentation of clips, as FixMatch's of images (arXiv 2001.07685, 2.3 and D).

What is drawn holds for all frames of a clip, so that no motion is made up. Operations of
brightness and colour see the frames stacked into one tall picture, whose histogram is the clip's.

Legend: B clips, T frames, S side in pixels, 3 colour channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

UInt8Array = NDArray[np.uint8]

SHIFT = 0.125
"""Part of the side by which a weakly augmented clip is moved at most."""

_GREY = (127, 127, 127)
_LARGEST_CUT = 0.5


def weak(clips_BTSS3: UInt8Array, rng: np.random.Generator, *, flip: bool = True) -> UInt8Array:
    """Mirror half of the clips left to right, and move each by up to :data:`SHIFT` either way.

    What moves in at an edge is the picture reflected.
    """
    return np.stack([_weak(clip, rng, flip=flip) for clip in clips_BTSS3])


def strong(
    clips_BTSS3: UInt8Array, rng: np.random.Generator, *, ops: int = 2, flip: bool = True
) -> UInt8Array:
    """Augment weakly, by ``ops`` operations of :data:`OPERATIONS`, and by Cutout.

    RandAugment as FixMatch has it: operations are drawn with replacement, and each one's strength
    anew, evenly from its range.
    """
    changed = []
    for clip in clips_BTSS3:
        clip = _weak(clip, rng, flip=flip)
        for name in rng.choice(sorted(OPERATIONS), size=ops):
            clip = OPERATIONS[name](clip, float(rng.uniform()), bool(rng.integers(2)))
        changed.append(_cutout(clip, rng))
    return np.stack(changed)


def _weak(clip_TSS3: UInt8Array, rng: np.random.Generator, *, flip: bool) -> UInt8Array:
    side = clip_TSS3.shape[1]
    most = round(SHIFT * side)
    top, left = rng.integers(0, 2 * most + 1, size=2)
    mirrored = bool(rng.integers(2)) and flip
    padded = np.pad(clip_TSS3, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    moved = padded[:, top : top + side, left : left + side]
    return np.ascontiguousarray(moved[:, :, ::-1] if mirrored else moved)


def _cutout(clip_TSS3: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Fill a square of up to half the side with grey, in the same place of every frame."""
    side = clip_TSS3.shape[1]
    cut = round(rng.uniform(0, _LARGEST_CUT) * side)
    middle = rng.integers(0, side, size=2)
    top, left = (max(0, int(each) - cut // 2) for each in middle)
    bottom, right = (min(side, int(each) - cut // 2 + cut) for each in middle)
    clip = clip_TSS3.copy()
    clip[:, top:bottom, left:right] = _GREY
    return clip


Operation = Callable[[UInt8Array, float, bool], UInt8Array]
"""A clip, a strength in [0, 1) and a direction, to a clip."""


def _pictured(change: Callable[[Image.Image, float], Image.Image]) -> Operation:
    """Make an operation of one on pictures, which sees all frames at once."""

    def operation(clip_TSS3: UInt8Array, strength: float, _: bool) -> UInt8Array:
        frames, height, width, _channels = clip_TSS3.shape
        tall = Image.fromarray(clip_TSS3.reshape(frames * height, width, 3))
        return np.asarray(change(tall, strength), dtype=np.uint8).reshape(clip_TSS3.shape)

    return operation


def _placed(matrix: Callable[[float, int], tuple[float, ...]]) -> Operation:
    """Make an operation of an affine map of each frame, (x, y) from the middle."""

    def operation(clip_TSS3: UInt8Array, strength: float, backwards: bool) -> UInt8Array:
        side = clip_TSS3.shape[1]
        a, b, c, d, e, f = matrix(-strength if backwards else strength, side)
        middle = (side - 1) / 2
        coefficients = (
            *(a, b, c + middle - (a + b) * middle),
            *(d, e, f + middle - (d + e) * middle),
        )
        frames = [
            Image.fromarray(frame).transform(
                (side, side),
                Image.Transform.AFFINE,
                coefficients,
                Image.Resampling.BILINEAR,
                fillcolor=_GREY,
            )
            for frame in clip_TSS3
        ]
        return np.stack([np.asarray(frame, dtype=np.uint8) for frame in frames])

    return operation


def _rotation(strength: float, _: int) -> tuple[float, ...]:
    angle = np.deg2rad(30 * strength)
    return (np.cos(angle), np.sin(angle), 0.0, -np.sin(angle), np.cos(angle), 0.0)


def _factor(strength: float) -> float:
    return 0.05 + 0.9 * strength


OPERATIONS: dict[str, Operation] = {
    "autocontrast": _pictured(lambda picture, _: ImageOps.autocontrast(picture)),
    "brightness": _pictured(lambda p, s: ImageEnhance.Brightness(p).enhance(_factor(s))),
    "colour": _pictured(lambda p, s: ImageEnhance.Color(p).enhance(_factor(s))),
    "contrast": _pictured(lambda p, s: ImageEnhance.Contrast(p).enhance(_factor(s))),
    "equalise": _pictured(lambda picture, _: ImageOps.equalize(picture)),
    "identity": lambda clip_TSS3, *_: clip_TSS3,
    "posterise": _pictured(lambda p, s: ImageOps.posterize(p, 4 + int(5 * s))),
    "rotate": _placed(_rotation),
    "sharpness": _pictured(lambda p, s: ImageEnhance.Sharpness(p).enhance(_factor(s))),
    "shear_x": _placed(lambda s, _: (1.0, 0.3 * s, 0.0, 0.0, 1.0, 0.0)),
    "shear_y": _placed(lambda s, _: (1.0, 0.0, 0.0, 0.3 * s, 1.0, 0.0)),
    "solarise": _pictured(lambda p, s: ImageOps.solarize(p, int(256 * s))),
    "translate_x": _placed(lambda s, side: (1.0, 0.0, 0.3 * s * side, 0.0, 1.0, 0.0)),
    "translate_y": _placed(lambda s, side: (1.0, 0.0, 0.0, 0.0, 1.0, 0.3 * s * side)),
}
"""The 14 of FixMatch's table 12, with its ranges."""
