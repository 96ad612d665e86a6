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

_SEED = 20_250_604
_SIZE_PX = 64
_FLOOR = 1e-3
_TYPICAL = 0.05
"""Mean activation of ordinary clips: features are around 0, where KVD's kernel is keenest."""
_LAYERS = (
    # channels in and out, kernel, stride
    (3, 16, (3, 5, 5), (1, 2, 2)),
    (16, 16, (3, 3, 3), (1, 2, 2)),
    (16, 16, (3, 3, 3), (2, 2, 2)),
)


class RandomVideoNetwork(nn.Module):
    """Maps (N, 3, T, H, W) in [-1, 1] to the log mean activations (N, 48) of three random layers.

    Of each layer's filters a quarter sees everything, a quarter no constant (edges), and half
    nothing that stands still (motion). The logarithm lets faint motion count beside brightness.

    The weights are uniform numbers of numpy's legacy generator, whose stream is frozen and takes
    no transcendental function: their bits are the same on every machine, and so is
    :attr:`sha256`, of them and of the network's plan. The sums of a convolution are not, in the
    last bits of float32.
    """

    def __init__(self) -> None:
        super().__init__()
        random = np.random.RandomState(_SEED)
        sha = hashlib.sha256(repr((_LAYERS, _SIZE_PX, _FLOOR, _TYPICAL)).encode())
        self.weights = nn.ParameterList()
        for inputs, outputs, kernel, _ in _LAYERS:
            weight = random.random_sample((outputs, inputs, *kernel)) * 2 - 1
            weight[1::4] -= weight[1::4].mean(axis=(1, 2, 3, 4), keepdims=True)
            weight[2::4] -= weight[2::4].mean(axis=2, keepdims=True)
            weight[3::4] -= weight[3::4].mean(axis=2, keepdims=True)
            weight *= (6 / weight[0].size) ** 0.5
            sha.update(weight.astype("<f4").tobytes())
            self.weights.append(nn.Parameter(torch.from_numpy(weight.astype(np.float32))))
        self.sha256 = sha.hexdigest()

    def forward(self, video_NCTHW: Tensor) -> Tensor:
        """Return the features; frames are resized to 64 px first."""
        frames = video_NCTHW.shape[2]
        flat = video_NCTHW.transpose(1, 2).flatten(0, 1)
        x = nnf.interpolate(
            flat, (_SIZE_PX, _SIZE_PX), mode="bilinear", align_corners=False, antialias=True
        )
        x = x.reshape(-1, frames, *x.shape[1:]).transpose(1, 2)
        means = []
        for weight, (_, _, kernel, stride) in zip(self.weights, _LAYERS, strict=True):
            # The first and last frame go on: an end of the clip is no motion.
            pads = [width // 2 for width in reversed(kernel) for _ in range(2)]
            x = torch.relu(nnf.conv3d(nnf.pad(x, pads, mode="replicate"), weight, stride=stride))
            means.append(x.mean(dim=(2, 3, 4)))
        return ((torch.cat(means, dim=1) + _FLOOR) / _TYPICAL).log()
