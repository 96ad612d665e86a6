"""A fixed random network over clips, for demos and tests without weights: ``FVD-random``.

Random convolutions tell textures, edges and motion apart, but nothing that Kinetics taught I3D:
its numbers compare with each other and with nobody else's.

Legend: N clips, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

DIM = 64
_SEED = 20_250_604
_SIZE_PX = 64
_LAYERS = (
    # channels in and out, kernel, stride
    (3, 16, (3, 5, 5), (1, 2, 2)),
    (16, 16, (3, 3, 3), (1, 2, 2)),
    (16, 32, (3, 3, 3), (2, 2, 2)),
)


class RandomVideoNetwork(nn.Module):
    """Maps (N, 3, T, H, W) in [-1, 1] to the mean activations (N, 64) of three random layers.

    The weights are uniform numbers of numpy's legacy generator, whose stream is frozen and takes
    no logarithm: their bits, and so :attr:`sha256`, are the same on every machine. The sums of a
    convolution are not, in the last bits of float32.
    """

    def __init__(self) -> None:
        super().__init__()
        random = np.random.RandomState(_SEED)
        sha = hashlib.sha256()
        self.layers = nn.ModuleList()
        for inputs, outputs, kernel, stride in _LAYERS:
            padding = tuple(width // 2 for width in kernel)
            layer = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
            weight = random.random_sample(tuple(layer.weight.shape)) * 2 - 1
            # Half of the filters see no constant: they answer to edges and motion alone.
            weight[::2] -= weight[::2].mean(axis=(1, 2, 3, 4), keepdims=True)
            weight *= (6 / weight[0].size) ** 0.5
            layer.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
            sha.update(weight.astype("<f4").tobytes())
            self.layers.append(layer)
        self.sha256 = sha.hexdigest()

    def forward(self, video_NCTHW: Tensor) -> Tensor:
        """Return the features; frames are resized to 64 px first."""
        frames = video_NCTHW.shape[2]
        flat = video_NCTHW.transpose(1, 2).flatten(0, 1)
        x = nnf.interpolate(
            flat, (_SIZE_PX, _SIZE_PX), mode="bilinear", align_corners=False, antialias=True
        )
        x = x.unflatten(0, (-1, frames)).transpose(1, 2)
        means = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            means.append(x.mean(dim=(2, 3, 4)))
        return torch.cat(means, dim=1)
