"""A codec without weights: an orthonormal wavelet over each frame that keeps its coarse bands.

What it loses: all detail finer than the coarsest level, and detail bands beyond
``detail_channels``. At 64 px with the default (two levels, three details) a frame keeps the
sharpness of one of 32 px in brightness and of 16 px in colour; six numbers stand for the 48 of
a block of 4 x 4 pixels. Mean PSNR, encoded and decoded, at 64 px with order p of
:mod:`.filters` (p = 1 is Haar):

===================================== ======= ======= =======
source                                p = 1   p = 3   p = 5
===================================== ======= ======= =======
heart phantom (its speckle is fine)   24.2    27.4    27.8
endoscopy phantom                     27.3    32.7    33.2
lung ultrasound, 31 clips             34.2    37.8    38.1
endoscopy, real                       27.4    30.4    30.7
DICOM ultrasound cines, 4             28.6    30.8    31.0
eye ultrasound, 2 clips               29.8    31.7    31.6
===================================== ======= ======= =======

Legend: B batch, F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from feat_fed.codec.base import Latent
from feat_fed.codec.filters import ORDER, band_matrices
from feat_fed.config import CodecConfig
from feat_fed.errors import ConfigError

_VERSION = 1

# Rows: luma, blue-red and green-magenta opponents; orthonormal.
_COLOUR = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
_COLOUR = _COLOUR / _COLOUR.norm(dim=1, keepdim=True)

_LOW, _HIGH = 0, 1
_DETAIL_KINDS = ((_LOW, _HIGH), (_HIGH, _LOW), (_HIGH, _HIGH))  # (over height, over width)

# Mean and standard deviation of each band, divided by 2**levels: of 64 px frames at two levels,
# each of six sources counting alike (the two kinds of phantoms of feat_fed.data.phantoms, 31
# lung ultrasound clips, an endoscopy, four DICOM ultrasound cines, two eye ultrasounds). From
# 128 px at three levels they come out the same, at 64 px and one level details are a third less.
# Grey sources have no colour, so a coloured one alone has about twice the variance in colour.
_AVERAGE_SHIFT = (-1.12, 0.10, 0.04)
_AVERAGE_SCALE = (0.67, 0.17, 0.07)
_DETAIL_SCALE = ((0.10, 0.10, 0.06), (0.018, 0.018, 0.009), (0.008, 0.008, 0.005))


class WaveletCodec:
    """Three colour averages and ``detail_channels`` detail bands of the coarsest level.

    Parameters
    ----------
    config
        ``levels`` dyadic levels: latents are ``2**levels`` times smaller on either side.
        Details are kept luma first: vertical edges, horizontal edges, diagonals.

    Raises
    ------
    ConfigError
        For more details than the nine that one level has.
    """

    def __init__(self, config: CodecConfig) -> None:
        most = len(_COLOUR) * len(_DETAIL_KINDS)
        if config.detail_channels > most:
            raise ConfigError(
                f"codec.detail_channels is {config.detail_channels}, but one level of the wavelet "
                f"has {most} detail bands; set it to {most} or less"
            )
        self._levels = config.levels
        averages = [(colour, (_LOW, _LOW)) for colour in range(len(_COLOUR))]
        details = [(colour, kind) for colour in range(len(_COLOUR)) for kind in _DETAIL_KINDS]
        self._bands = averages + details[: config.detail_channels]
        detail_scale = [scale for row in _DETAIL_SCALE for scale in row]
        scale = torch.tensor([*_AVERAGE_SCALE, *detail_scale], dtype=torch.float64)
        shift = torch.tensor([*_AVERAGE_SHIFT, *[0.0] * most], dtype=torch.float64)
        gain = 2**config.levels  # of an orthonormal average over so many pixels a side
        self._scale = (scale * gain)[: len(self._bands), None, None]
        self._shift = (shift * gain)[: len(self._bands), None, None]

    @property
    def latent_channels(self) -> int:
        """Averages and details."""
        return len(self._bands)

    @property
    def has_logvar(self) -> bool:
        """False: it is deterministic."""
        return False

    @property
    def flip_signs(self) -> tuple[int, ...]:
        """-1 for the bands that are odd over the width."""
        return tuple(1 - 2 * (kind[1] == _HIGH) for _, kind in self._bands)

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the latents."""
        numbers = [_VERSION, ORDER, self._levels, self._bands]
        numbers += [self._scale.flatten().tolist(), self._shift.flatten().tolist()]
        return f"wavelet-{hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]}"

    def to(self, device: torch.device | str) -> Self:
        """Return the codec itself: its numbers follow what it codes."""
        return self

    def latent_shape(self, frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Return (F, C, h, w).

        Raises
        ------
        ConfigError
            For a frame whose sides are no multiples of ``2**levels``.
        """
        step = 2**self._levels
        if height_px % step or width_px % step:
            raise ConfigError(
                f"a frame of {height_px} x {width_px} px does not divide by {step} "
                f"(2^codec.levels); choose clips.size_px as a multiple of {step}"
            )
        return frames, self.latent_channels, height_px // step, width_px // step

    def encode(self, video_BFCHW: Tensor) -> Latent:
        """Encode RGB in [-1, 1], and make each channel's variance about one."""
        coefficients = self.analyse(video_BFCHW)
        return Latent((coefficients - self._shift.to(coefficients)) / self._scale.to(coefficients))

    def decode(self, z_BFCHW: Tensor) -> Tensor:
        """Decode to RGB; what a generated latent puts outside [-1, 1] is clipped."""
        coefficients = z_BFCHW * self._scale.to(z_BFCHW) + self._shift.to(z_BFCHW)
        return self.synthesise(coefficients).clamp(-1, 1)

    def analyse(self, video_BFCHW: Tensor) -> Tensor:
        """Return the kept coefficients, ``BFChw``: the orthonormal transform's rows."""
        self.latent_shape(1, *video_BFCHW.shape[-2:])
        colours = torch.einsum("kc,bfchw->kbfhw", _COLOUR.to(video_BFCHW), video_BFCHW)
        bands = [
            over_height @ colours[colour] @ over_width.T
            for colour, over_height, over_width in self._operators(video_BFCHW)
        ]
        return torch.stack(bands, dim=2)

    def synthesise(self, coefficients_BFCHW: Tensor) -> Tensor:
        """Return the adjoint's video, ``BFCHW``: dropped bands count as zero."""
        batch, frames, _, height, width = coefficients_BFCHW.shape
        step = 2**self._levels
        like = coefficients_BFCHW.new_empty(batch, frames, 3, height * step, width * step)
        colours = torch.zeros_like(like)
        for band, (colour, over_height, over_width) in enumerate(self._operators(like)):
            colours[:, :, colour] += over_height.T @ coefficients_BFCHW[:, :, band] @ over_width
        return torch.einsum("kc,bfkhw->bfchw", _COLOUR.to(like), colours)

    def _operators(self, video_BFCHW: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each band's colour and its matrices over height and width."""
        height, width = video_BFCHW.shape[-2:]
        vertical = [
            torch.from_numpy(each).to(video_BFCHW) for each in band_matrices(height, self._levels)
        ]
        horizontal = [
            torch.from_numpy(each).to(video_BFCHW) for each in band_matrices(width, self._levels)
        ]
        for colour, (over_height, over_width) in self._bands:
            yield colour, vertical[over_height], horizontal[over_width]
