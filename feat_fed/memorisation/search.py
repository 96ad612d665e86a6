"""The nearest training window of each of some clips, over all times and mirror images.

The similarity of two windows x and y of F frames is the correlation of their scaled frames
(:mod:`.scaling`),

    <x, y> / (|x| |y|),

which a change of brightness or contrast of the whole clip leaves as it is. For all starts of a
clip it follows from the products of frames with frames: one matrix product a block.

Legend: N windows, F frames, T frames of a block, D numbers a frame, C channels, h and w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from feat_fed.memorisation.scaling import Scaling, pooled

_BLOCK_FRAMES = 512


class TrainingClip(Protocol):
    """A whole clip's latent, read in parts."""

    @property
    def num_frames(self) -> int:
        """Of the latent."""
        ...

    @property
    def mirrors(self) -> tuple[bool, ...]:
        """Which of its images may have been trained on: as it is, mirrored."""
        ...

    def read(self, start_frame: int, stop_frame: int, *, mirrored: bool) -> Tensor:
        """Return some frames, ``z_FChw``."""
        ...


@dataclass(frozen=True)
class Found:
    """The training window that is nearest to a clip."""

    score: float
    """Correlation, -1 to 1."""
    clip: int
    """Place among the training clips; -1: none is long enough."""
    start_frame: int
    mirrored: bool


def nearest(
    z_NFChw: Tensor,
    clips: Sequence[TrainingClip],
    *,
    stride_frames: int = 1,
    alive: Callable[[], None] = lambda: None,
) -> list[Found]:
    """Find the nearest training window of each clip; clips are read twice, block by block.

    Parameters
    ----------
    z_NFChw
        Latents of N clips that are looked for.
    stride_frames
        Source frames from one frame of a training window to the next.
    alive
        Called after each block.

    Raises
    ------
    ValueError
        If there is no training frame.
    """
    pooled_NFChw = torch.stack([pooled(z_FChw) for z_FChw in z_NFChw])
    best = [Found(-1.0, -1, 0, False) for _ in z_NFChw]
    # What all mirrored clips have in common is not what all others have.
    for mirrored in (False, True):
        images = [
            _Image(place, each, mirrored)
            for place, each in enumerate(clips)
            if mirrored in each.mirrors
        ]
        if images or not mirrored:
            found = _nearest_images(pooled_NFChw, images, stride_frames, alive)
            pairs = zip(best, found, strict=True)
            best = [max(pair, key=lambda each: each.score) for pair in pairs]
    return best


def _nearest_images(
    pooled_NFChw: Tensor,
    images: Sequence[_Image],
    stride_frames: int,
    alive: Callable[[], None],
) -> list[Found]:
    span = (pooled_NFChw.shape[1] - 1) * stride_frames + 1
    scaling = Scaling.of(block for image in images for _, block in image.blocks(0, alive))
    x_NFD = torch.stack([scaling(each) for each in pooled_NFChw])
    best = [Found(-1.0, -1, 0, False) for _ in x_NFD]
    for image in images:
        for first, pooled_TChw in image.blocks(span - 1, alive):
            if len(pooled_TChw) < span:
                continue
            x_TD = scaling(pooled_TChw)
            scores, starts = correlations(x_NFD, x_TD, stride_frames).max(dim=1)
            for place, score in enumerate(scores.tolist()):
                if score > best[place].score:
                    start = first + int(starts[place])
                    best[place] = Found(score, image.place, start, image.mirrored)
    return best


def correlations(x_NFD: Tensor, x_TD: Tensor, stride_frames: int) -> Tensor:
    """Return the correlation of each window with the frames from each start on, ``r_NS``.

    S is ``T - (F - 1) * stride_frames``. Where one of the two is all zeros, it is 0.
    """
    windows, frames, _ = x_NFD.shape
    starts = len(x_TD) - (frames - 1) * stride_frames
    products_NFT = torch.einsum("nfd,td->nft", x_NFD, x_TD)
    energy_T = x_TD.square().sum(1)
    product_NS = products_NFT.new_zeros(windows, starts)
    energy_S = energy_T.new_zeros(starts)
    for frame in range(frames):
        first = frame * stride_frames
        product_NS += products_NFT[:, frame, first : first + starts]
        energy_S += energy_T[first : first + starts]
    norms_NS = x_NFD.flatten(1).norm(dim=1)[:, None] * energy_S.sqrt()
    tiny = torch.finfo(norms_NS.dtype).tiny
    similar_NS: Tensor = (product_NS / norms_NS.clamp(min=tiny)).clamp(-1, 1)
    return similar_NS


@dataclass(frozen=True)
class _Image:
    """A training clip as it is, or mirrored."""

    place: int
    clip: TrainingClip
    mirrored: bool

    def blocks(self, overlap: int, alive: Callable[[], None]) -> Iterator[tuple[int, Tensor]]:
        """Yield the first frame of each block and its pooled frames, ``TChw``."""
        for start, stop in _parts(self.clip.num_frames, overlap):
            yield start, pooled(self.clip.read(start, stop, mirrored=self.mirrored))
            alive()


def _parts(num_frames: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Cut a clip into blocks so that every window lies whole in one of them."""
    step = max(_BLOCK_FRAMES, overlap)
    for start in range(0, max(1, num_frames - overlap), step):
        yield start, min(start + step + overlap, num_frames)
