"""Moving pictures that resemble two kinds of medical video, drawn from a seed.

They are toys for demonstrations and tests: the motion and the picture's make-up are of the right
kind, no anatomy is.

Legend: T frames, H and W height and width (equal here).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Video = npt.NDArray[np.uint8]

_FIELD = 128  # side of a noise field, which repeats without a seam; a power of two


@dataclass(frozen=True)
class Shape:
    """What a clip measures."""

    frames: int
    size_px: int
    fps: float


def echo_clip(shape: Shape, *, gain: float, rng: np.random.Generator) -> Video:
    """Draw a beating ventricle with its valve in an ultrasound sector, (T, H, W, 3) grey.

    Tissue is drawn in material coordinates: a pixel looks up where its tissue was at rest, so
    that speckle moves with the wall instead of flickering.
    """
    x, y = _grid(shape.size_px)
    rate_hz, phase = rng.uniform(0.9, 1.6), rng.uniform(0, 1)
    speckle = np.hypot(_smooth_noise(rng, 3.0), _smooth_noise(rng, 3.0)) / 1.25
    clouds = _smooth_noise(rng, 12.0)
    half_angle, tilt = rng.uniform(0.62, 0.75), rng.uniform(-0.2, 0.2)
    centre_x, centre_y = rng.uniform(-0.08, 0.08), rng.uniform(-0.2, -0.08)
    across, along = rng.uniform(0.3, 0.36), rng.uniform(0.5, 0.58)
    u = (x - centre_x) * np.cos(tilt) + (y - centre_y) * np.sin(tilt)
    v = (y - centre_y) * np.cos(tilt) - (x - centre_x) * np.sin(tilt)
    radius = np.hypot(u / across, v / along)
    depth = np.hypot(x, y + 1.0)
    sector = _edge(half_angle - np.abs(np.arctan2(x, y + 1.0)), 0.02) * _edge(1.92 - depth, 0.03)
    frames = []
    for index in range(shape.frames):
        squeeze = _beat(phase + rate_hz * index / shape.fps)
        at_rest = radius + 0.38 * squeeze * np.exp(-(((radius - 0.75) / 0.75) ** 2))
        stretch = at_rest / np.maximum(radius, 1e-6)
        grain = _look_up(speckle, u * stretch * 50, v * stretch * 50)
        tissue = 0.34 + 0.10 * _look_up(clouds, u * stretch * 30, v * stretch * 30)
        wall = _edge(at_rest - 1.0, 0.05) * _edge(1.38 - at_rest, 0.05)
        lining = np.exp(-(((at_rest - 1.42) / 0.05) ** 2))
        echo = tissue * _edge(at_rest - 1.0, 0.04) + 0.26 * wall + 0.4 * lining + 0.05
        echo = echo * (0.35 + 0.65 * grain) + 0.75 * _valve(u / across, v / along, 1 - squeeze)
        picture = gain * echo * sector * (1.05 - 0.22 * depth)
        frames.append(np.repeat(picture[..., None], 3, axis=-1))
    return _to_uint8(np.stack(frames))


def endoscopy_clip(shape: Shape, *, gain: float, rng: np.random.Generator) -> Video:
    """Draw the way forward through a warm, folded tube in a circular field, (T, H, W, 3)."""
    x, y = _grid(shape.size_px)
    mucosa, vessels = _smooth_noise(rng, 7.0), _smooth_noise(rng, 5.0)
    speed = rng.uniform(0.9, 1.5)  # folds a second
    lobes, twist = int(rng.integers(2, 4)), rng.uniform(-0.5, 0.5)
    sway_hz, phase = rng.uniform(0.25, 0.5), rng.uniform(0, 2 * np.pi, size=3)
    tint = np.array([1.0, rng.uniform(0.46, 0.56), rng.uniform(0.34, 0.44)])
    field = _edge(0.94 - np.hypot(x, y), 0.03)[..., None]
    frames = []
    for index in range(shape.frames):
        time_sec = index / shape.fps
        sway = 0.22 * np.sin(2 * np.pi * sway_hz * time_sec + phase[:2])
        radius = np.hypot(x - sway[0], y - sway[1])
        angle = np.arctan2(y - sway[1], x - sway[0]) + twist * time_sec
        radius = radius * (1 + 0.16 * np.cos(lobes * angle + phase[2])) + 0.02
        travel = 0.6 / radius + speed * time_sec  # depth along the tube, a fold a unit
        fold = 0.5 + 0.5 * np.cos(2 * np.pi * travel)
        fold = 1 - (1 - fold) ** 3 * _edge(radius - 0.13, 0.03)  # dark creases, lit ridges
        lamp = np.clip(1.25 * radius / (0.22 + radius), 0, 1) * _edge(radius - 0.1, 0.05)
        around = angle * _FIELD / (2 * np.pi)
        shade = 0.72 + 0.16 * _look_up(mucosa, around, travel * 16)
        light = gain * lamp * shade * (0.3 + 0.7 * fold)
        vein = np.exp(-((_look_up(vessels, around, travel * 12) / 0.16) ** 2))[..., None]
        colour = light[..., None] * tint * (1 - vein * np.array([0.10, 0.28, 0.20]))
        shine = _edge(fold * lamp * _look_up(mucosa, around * 2, travel * 24) - 1.75, 0.25)
        frames.append((colour + 0.4 * shine[..., None]) * field)
    return _to_uint8(np.stack(frames))


def _beat(cycles: float) -> float:
    """Contraction, 0 to 1: a smooth systole of four tenths of the cycle, then rest."""
    at = cycles % 1.0
    return float(np.sin(np.pi * at / 0.6) ** 2) if at < 0.6 else 0.0


def _valve(across: Array, along: Array, opening: float) -> Array:
    """Draw two leaflets that hang from the chamber's base and close on each other."""
    light = np.zeros_like(across)
    for side in (-1.0, 1.0):
        swing = 0.25 + 1.1 * opening
        direction_x, direction_y = -side * np.cos(swing), -np.sin(swing)
        from_x, from_y = across - side * 0.55, along - 0.86
        reach = np.clip(from_x * direction_x + from_y * direction_y, 0, 0.52)
        distance = np.hypot(from_x - reach * direction_x, from_y - reach * direction_y)
        light += np.exp(-((distance / 0.07) ** 2))
    return light


def _grid(size_px: int) -> tuple[Array, Array]:
    axis = (np.arange(size_px) + 0.5) * 2 / size_px - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _edge(signed_distance: Array, width: float) -> Array:
    """Rise smoothly from 0 to 1 around zero."""
    return np.asarray(0.5 + 0.5 * np.tanh(signed_distance / width))


def _smooth_noise(rng: np.random.Generator, grain_px: float) -> Array:
    """Return Gaussian noise of unit variance, blurred to ``grain_px``, that repeats seamlessly."""
    frequency = np.fft.fftfreq(_FIELD)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    blur = np.exp(-squared * (np.pi * grain_px) ** 2 / 2)
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_FIELD, _FIELD))) * blur).real
    return np.asarray(noise / noise.std())


def _look_up(field: Array, column: Array, row: Array) -> Array:
    """Interpolate linearly between the field's points, which repeat for ever."""
    at_left, at_top = np.floor(column), np.floor(row)
    right_part, low_part = column - at_left, row - at_top
    left, top = (each.astype(np.int32) & (_FIELD - 1) for each in (at_left, at_top))
    right, low = (left + 1) & (_FIELD - 1), ((top + 1) & (_FIELD - 1)) * _FIELD
    top = top * _FIELD
    above = field.take(top + left) * (1 - right_part) + field.take(top + right) * right_part
    below = field.take(low + left) * (1 - right_part) + field.take(low + right) * right_part
    return np.asarray(above * (1 - low_part) + below * low_part)


def _to_uint8(frames: Array) -> Video:
    return np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8)
