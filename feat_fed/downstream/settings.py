"""What a downstream experiment is set to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from feat_fed.config.base import StrictModel

Task = Literal["fixmatch", "tstr"]

ArmName = Literal["supervised", "rest", "generated", "real"]
"""Ways to train that are compared: FixMatch's without unlabelled clips, with the other real ones,
with generated ones; and all real clips, beside which ``generated`` means these alone."""

Draw = Literal["random", "first"]
"""Which clips are labelled: drawn anew with each seed, or the first of the list."""

NetworkName = Literal["small", "resnet10"]


class WindowSettings(StrictModel):
    """What of a clip a classifier sees."""

    size_px: int = Field(64, ge=32, le=512, description="side of the frames")
    num_frames: int = Field(8, ge=1, le=128, description="frames of a window")
    stride_frames: int = Field(2, ge=1, le=1024, description="from one frame to the next, at most")
    views: int = Field(
        3, ge=1, le=64, description="windows of a clip: one is trained on at a time, all are tested"
    )
    fit: Literal["crop", "pad"] = Field("crop", description="the centre square, or black bars")
    memory_gb: float = Field(2.0, gt=0, description="that decoded windows may take")


class TrainingSettings(StrictModel):
    """How a classifier is trained; symbols and defaults of FixMatch (arXiv 2001.07685).

    The batch and mu are smaller than its 64 and 7, and training is shorter than its 2^20 steps:
    its images are many and small.
    """

    network: NetworkName = Field("small", description="MONAI's 3D ResNet-10, narrow or whole")
    weights: Path | None = Field(None, description="pretrained, of the network without its head")
    steps: int = Field(300, ge=1, description="K")
    batch_size: int = Field(8, ge=2, description="B, labelled clips a step")
    mu: int = Field(2, ge=1, description="unlabelled clips a labelled one, in a step")
    threshold: float = Field(0.95, ge=0, le=1, description="tau: a pseudo-label counts from there")
    lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled loss")
    learning_rate: float = Field(0.03, gt=0, description="eta, at the first step")
    momentum: float = Field(0.9, ge=0, lt=1, description="beta, Nesterov's")
    weight_decay: float = Field(5e-4, ge=0, description="of matrices and filters only")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the weights that are tested")
    flip: bool = Field(True, description="augment by mirroring left and right")
    strong_ops: int = Field(2, ge=0, description="N of RandAugment")


class DownstreamConfig(StrictModel):
    """What ``feat-fed downstream --config`` reads."""

    windows: WindowSettings = WindowSettings()
    training: TrainingSettings = TrainingSettings()
