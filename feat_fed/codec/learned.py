"""What all learned codecs share: frames in parts, unit scale, a fingerprint of their weights.

Legend: B batch, F frames, N = B F frames, C channels, H and W of pixels, h and w of the latent.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from feat_fed.codec.base import Latent
from feat_fed.config import CodecConfig
from feat_fed.errors import ConfigError

_VERSION = 1
_PASS_PX = 2**19
"""Pixels that go through a network at once: 32 frames of 128 px."""


class FrameAutoencoder(nn.Module, ABC):
    """A network for single frames, in its own numbers: z = (raw - ``shift``) / ``scale``.

    ``shift`` and ``scale`` are what whoever trained the network says; ``has_logvar`` tells
    whether it gives a log-variance.
    """

    has_logvar: bool
    shift: float = 0.0
    scale: float = 1.0

    @abstractmethod
    def encode(self, video_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Turn RGB in [-1, 1] into raw mean and log-variance, ``NChw``."""

    @abstractmethod
    def decode(self, raw_NCHW: Tensor) -> Tensor:
        """Turn raw latents into RGB in about [-1, 1]."""


class LearnedCodec:
    """Codes each frame by a network.

    Parameters
    ----------
    config
        Its ``shift`` and ``scale``, where set, replace the network's own.

    Raises
    ------
    ConfigError
        When the network's latents are not of the channels or size that ``config`` says.
    """

    def __init__(self, config: CodecConfig, frames: FrameAutoencoder) -> None:
        frames.float().eval().requires_grad_(False)
        self._config, self._frames = config, frames
        channels = config.channels
        shift = config.shift or (frames.shift,)
        scale = config.scale or (frames.scale,)
        self._shift = torch.tensor(shift).expand(channels)[:, None, None]
        self._scale = torch.tensor(scale).expand(channels)[:, None, None]
        self._check_shape()

    @property
    def latent_channels(self) -> int:
        """C of the latent."""
        return self._config.channels

    @property
    def has_logvar(self) -> bool:
        """Whether the network tells how sure it is."""
        return self._frames.has_logvar

    @property
    def flip_signs(self) -> None:
        """None: a mirrored clip must be encoded."""
        return

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the latents."""
        it, scales = self._config, (self._shift.flatten().tolist(), self._scale.flatten().tolist())
        monai = it.monai and it.monai.model_dump(mode="json")
        text = json.dumps([_VERSION, it.weights_sha256, monai, scales])
        return f"{it.kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def to(self, device: torch.device | str) -> Self:
        """Move the network; return the codec itself."""
        self._frames.to(device)
        return self

    def latent_shape(self, frames: int, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Return (F, C, h, w).

        Raises
        ------
        ConfigError
            For a frame whose sides are no multiples of the codec's step.
        """
        step = self._config.step_px
        if height_px % step or width_px % step:
            raise ConfigError(
                f"a frame of {height_px} x {width_px} px does not divide by {step}, the pixels "
                f"of one latent pixel; choose clips.size_px as a multiple of {step}"
            )
        return frames, self.latent_channels, height_px // step, width_px // step

    @torch.no_grad()
    def encode(self, video_BFCHW: Tensor) -> Latent:
        """Encode RGB in [-1, 1]; the log-variance is of the scaled latent."""
        self.latent_shape(1, *video_BFCHW.shape[-2:])
        means, logvars = [], []
        for video_NCHW in self._parts(video_BFCHW, video_BFCHW[0, 0, 0].numel()):
            mean, logvar = self._frames.encode(video_NCHW)
            means.append(mean.to(video_BFCHW) - self._shift.to(video_BFCHW))
            if logvar is not None:
                logvars.append(logvar.to(video_BFCHW))
        scale = self._scale.to(video_BFCHW)
        mean_BFCHW = _clips(torch.cat(means) / scale, like=video_BFCHW)
        if not logvars:
            return Latent(mean_BFCHW)
        logvar = torch.cat(logvars) - 2 * scale.log()
        return Latent(mean_BFCHW, _clips(logvar, like=video_BFCHW))

    @torch.no_grad()
    def decode(self, z_BFCHW: Tensor) -> Tensor:
        """Decode to RGB; what the network puts outside [-1, 1] is clipped."""
        raw = z_BFCHW * self._scale.to(z_BFCHW) + self._shift.to(z_BFCHW)
        frame_px = z_BFCHW[0, 0, 0].numel() * self._config.step_px**2
        decoded = [self._frames.decode(part).to(z_BFCHW) for part in self._parts(raw, frame_px)]
        return _clips(torch.cat(decoded), like=z_BFCHW).clamp(-1, 1)

    def _parts(self, all_BFCHW: Tensor, frame_px: int) -> list[Tensor]:
        """Split into (N, C, H, W) on the network's device, as many frames as fit a pass."""
        like = next(self._frames.parameters())
        parts = torch.split(all_BFCHW.flatten(0, 1), max(1, _PASS_PX // frame_px))
        return [part.to(like) for part in parts]

    @torch.no_grad()
    def _check_shape(self) -> None:
        """Code one small frame, which any wrong number would keep from coming out right."""
        side, kind = 8 * self._config.step_px, self._config.kind
        like = next(self._frames.parameters())
        mean, _ = self._frames.encode(torch.zeros(1, 3, side, side).to(like))
        found, wanted = tuple(mean.shape[1:]), (self.latent_channels, 8, 8)
        if found != wanted:
            raise ConfigError(
                f"the weights of the {kind} codec make latents of {found[0]} channels and "
                f"{side / found[1]:g} px a latent pixel, and the study says {wanted[0]} channels "
                f"and {self._config.step_px} px; correct the study's codec"
            )


def _clips(all_NCHW: Tensor, *, like: Tensor) -> Tensor:
    """Undo what flattening the first two dimensions of ``like`` did."""
    return all_NCHW.reshape(*like.shape[:2], *all_NCHW.shape[1:])
