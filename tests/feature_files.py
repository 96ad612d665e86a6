"""Stand-ins for what evaluations need and nobody can put into a repository: videos, networks."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn


class ListClips:
    """Videos in memory that may differ in size and length."""

    def __init__(self, name: str, videos: Sequence[np.ndarray]) -> None:
        self.name = name
        self.videos = list(videos)

    @property
    def digest(self) -> str:
        sha = hashlib.sha256()
        for video in self.videos:
            sha.update(repr(video.shape).encode() + video.tobytes())
        return sha.hexdigest()

    def __len__(self) -> int:
        return len(self.videos)

    def num_frames(self, index: int) -> int:
        return len(self.videos[index])

    def read(self, index: int, start: int, num_frames: int, stride: int = 1) -> np.ndarray:
        return self.videos[index][start : start + (num_frames - 1) * stride + 1 : stride]

    def label(self, index: int) -> str:
        return f"video-{index}.mp4"


def videos(
    count: int, *, frames: int = 16, size: tuple[int, int] = (40, 40), seed: int = 0
) -> list[np.ndarray]:
    """Return moving smooth patterns with noise: no two alike, none flat."""
    random = np.random.RandomState(seed)
    height, width = size
    y, x, t = np.mgrid[:height, :width, :frames].astype(np.float32)
    found = []
    for _ in range(count):
        waves = [
            np.sin(x * a / width + y * b / height + t * c / 8 + d)
            for a, b, c, d in random.uniform(-9, 9, (3, 4))
        ]
        video = np.stack(waves, axis=-1).transpose(2, 0, 1, 3) * 60 + 128
        noise = random.normal(0, 6, video.shape)
        found.append((video + noise).clip(0, 255).astype(np.uint8))
    return found


class StandInI3D(nn.Module):
    """The published file's interface: scales and squashes when asked to, to 24 px here."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, dim, (2, 4, 4), (2, 4, 4))

    def forward(
        self,
        x: torch.Tensor,
        rescale: bool = False,
        resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:
        x = x.float()
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            x = nnf.interpolate(x, [x.shape[2], 24, 24], mode="trilinear", align_corners=False)
        features = self.conv(x).relu().mean([2, 3, 4]) * 10
        if return_features:
            return features
        return features.softmax(1)


class StandInInception(nn.Module):
    """The published file's interface: features or probabilities, with a bias or without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.output = nn.Linear(8, 5)

    def forward(
        self,
        img: torch.Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> torch.Tensor:
        features = self.conv(img.float() / 127.5 - 1).relu().mean([2, 3]) * 10
        if return_features:
            return features
        bias = None if no_output_bias else self.output.bias
        return nnf.linear(features, self.output.weight, bias).softmax(1)


def save_program(path: Path, module: nn.Module) -> str:
    """Write a module as TorchScript; return the file's SHA-256."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the published files are older
        torch.jit.save(torch.jit.script(module), str(path))
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seeded(module: type[nn.Module], *args: object) -> nn.Module:
    """Build a module whose weights are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return module(*args)


def jpeg(frame: np.ndarray, folder: Path) -> np.ndarray:
    """Write a frame as the reference's script does, and read it back."""
    from PIL import Image

    path = folder / "frame.jpg"
    Image.fromarray(frame).save(path, q=95)  # no option of Pillow's: it writes quality 75
    return np.array(Image.open(io.BytesIO(path.read_bytes())))
