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
    span = (z_NFChw.shape[1] - 1) * stride_frames + 1

    def blocks(overlap: int) -> Iterator[_Block]:
        for place, clip in enumerate(clips):
            for mirrored in clip.mirrors:
                for start, stop in _parts(clip.num_frames, overlap):
                    z_TChw = clip.read(start, stop, mirrored=mirrored)
                    yield _Block(place, mirrored, start, pooled(z_TChw))
                    alive()

    scaling = Scaling.of(each.pooled_TChw for each in blocks(0))
    x_NFD = torch.stack([scaling(pooled(z_FChw)) for z_FChw in z_NFChw])
    best = [Found(-1.0, -1, 0, False) for _ in x_NFD]
    for block in blocks(span - 1):
        x_TD = scaling(block.pooled_TChw)
        if len(x_TD) < span:
            continue
        scores, starts = correlations(x_NFD, x_TD, stride_frames).max(dim=1)
        for place, (score, start) in enumerate(zip(scores.tolist(), starts.tolist(), strict=True)):
            if score > best[place].score:
                best[place] = Found(score, block.clip, block.start + start, block.mirrored)
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
class _Block:
    """Some frames of one image of a training clip."""

    clip: int
    mirrored: bool
    start: int
    pooled_TChw: Tensor


def _parts(num_frames: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Cut a clip into blocks so that every window lies whole in one of them."""
    step = max(_BLOCK_FRAMES, overlap)
    for start in range(0, max(1, num_frames - overlap), step):
        yield start, min(start + step + overlap, num_frames)
