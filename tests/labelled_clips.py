"""Folders of small invented clips with labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feat_fed.data.phantoms import Shape, echo_clip, endoscopy_clip
from feat_fed.data.synthetic import encode_mp4

CLASSES = ("echo", "endoscopy")
SHAPE = Shape(frames=8, size_px=48, fps=25)


def phantom(label: str, seed: int) -> NDArray[np.uint8]:
    draw = echo_clip if label == "echo" else endoscopy_clip
    return draw(SHAPE, gain=1.0, rng=np.random.default_rng((seed, CLASSES.index(label))))


def write_clip(path: Path, label: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mp4(phantom(label, seed), 25))


def write_classes(root: Path, *, clips: int, first_seed: int = 0) -> Path:
    """Write a folder a class."""
    for label in CLASSES:
        for number in range(clips):
            write_clip(root / label / f"{label}-{number:02d}.mp4", label, first_seed + number)
    return root


def write_polypdiag(root: Path, *, train: int, test: int) -> Path:
    """Write ``videos/`` and lists as PolypDiag has them: 1 is endoscopy, 0 is echo."""
    (root / "splits").mkdir(parents=True)
    for name, first, count in (("train", 0, train), ("val", train, test)):
        lines = []
        for number in range(first, first + count):
            for value, label in enumerate(CLASSES):
                file = f"{label}-{number:02d}.mp4"
                write_clip(root / "videos" / file, label, number)
                lines.append(f"{file},{value}\n")
        (root / "splits" / f"{name}.csv").write_text("".join(lines))
    return root
