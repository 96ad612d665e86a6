"""Latents of made-up patients: a common picture, and a movement that is each one's own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from feat_fed.codec import flip_latent

SIGNS = (1, 1, -1)
SHAPE_Chw = (3, 12, 12)
BASIS = 12


@dataclass
class Clip:
    """A training clip in memory."""

    z_FChw: Tensor
    mirrors: tuple[bool, ...] = (False, True)
    longest: int = 0

    @property
    def num_frames(self) -> int:
        return len(self.z_FChw)

    def read(self, start_frame: int, stop_frame: int, *, mirrored: bool) -> Tensor:
        assert 0 <= start_frame < stop_frame <= self.num_frames
        self.longest = max(self.longest, stop_frame - start_frame)
        z_FChw = self.z_FChw[start_frame:stop_frame]
        return flip_latent(z_FChw, SIGNS) if mirrored else z_FChw


def patient(generator: torch.Generator, frames: int = 24) -> Tensor:
    """Return a patient's latent, ``z_FChw``."""
    shared = torch.Generator().manual_seed(0)
    common_Chw = 5 * torch.randn(SHAPE_Chw, generator=shared)
    basis = torch.randn((BASIS, *SHAPE_Chw), generator=shared)
    still = torch.randn((1, BASIS), generator=generator)
    moves = torch.randn((frames, BASIS), generator=generator).cumsum(0) / 3
    return common_Chw + torch.einsum("fk,kchw->fchw", still + moves, basis)


def patients(number: int, seed: int, frames: int = 24) -> list[Tensor]:
    """Return so many patients' latents."""
    generator = torch.Generator().manual_seed(seed)
    return [patient(generator, frames) for _ in range(number)]
