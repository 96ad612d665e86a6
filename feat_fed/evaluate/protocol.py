"""A protocol: all that decides a number but videos and networks, as data with a digest."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.load import parse_yaml, read_yaml, validate
from feat_fed.errors import ConfigError

NetworkName = Literal["i3d-torchscript", "i3d-state-dict", "videomae-g", "inception", "random"]
MetricName = Literal[
    "FVD", "KVD", "CD-FVD", "FID", "KID", "IS", "FVD-random", "KVD-random", "sharpness", "flicker"
]

NETWORKS_OF: dict[MetricName, tuple[NetworkName, ...]] = {
    "FVD": ("i3d-torchscript", "i3d-state-dict"),
    "KVD": ("i3d-torchscript", "i3d-state-dict"),
    "CD-FVD": ("videomae-g",),
    "FID": ("inception",),
    "KID": ("inception",),
    "IS": ("inception",),
    "FVD-random": ("random",),
    "KVD-random": ("random",),
    "sharpness": (),
    "flicker": (),
}
"""Which networks a metric of this name may be of; a name says what was computed."""

Fit = Literal["squash", "crop"]


class FramesConfig(StrictModel):
    """What is done to every stored frame, of real and of generated videos."""

    resize: Literal["pillow-lanczos", "torch-bilinear", "torch-bilinear-truncated"] = Field(
        description="the shorter side to size_px with antialiasing, then the centre square. "
        "pillow-lanczos: as convert_videos_to_frames.py of StyleGAN-V. torch-bilinear-truncated: "
        "as cd-fvd, which cuts the fraction of a grey level off; torch-bilinear rounds"
    )
    size_px: int | None = Field(
        None, ge=16, le=1024, description="null: the size of the generated videos, which share one"
    )
    jpeg_quality: int | None = Field(
        None, ge=1, le=95, description="frames go through a JPEG file of this quality; null: not"
    )


class SideConfig(StrictModel):
    """Which clips of one side are measured."""

    num_clips: int | None = Field(None, ge=1, description="at most; null: one of each video")
    choose: Literal["first", "random"] = Field(
        "first", description="of more videos than num_clips: the first in order, or a random set"
    )
    repeat: bool = Field(
        False, description="go through fewer videos again, with new offsets, until num_clips"
    )
    offset: Literal["start", "random"] = Field(
        "start", description="where in a video its clip begins"
    )
    short: Literal["refuse", "skip"] = Field(
        "refuse", description="what is done about videos with fewer frames than a clip has"
    )
    max_images: int | None = Field(
        None, ge=1, description="frames that FID, KID and IS are of, at most; null: all"
    )


class KernelConfig(StrictModel):
    """Subsets of KVD and KID (torch-fidelity's defaults)."""

    num_subsets: int = Field(100, ge=1, le=1000)
    subset_size: int = Field(
        1000, ge=2, description="a side of fewer samples is taken whole each time"
    )
    seed: int = Field(2020, ge=0)


class ScoreConfig(StrictModel):
    """Splits of the Inception Score."""

    splits: int = Field(10, ge=1, le=1000)
    seed: int | None = Field(
        None, ge=0, description="of a permutation before the split; null: in order, as StyleGAN-V"
    )


class MetricConfig(StrictModel):
    """One number of a protocol."""

    metric: MetricName
    networks: tuple[NetworkName, ...] = Field(
        (), description="that it may be computed with; the first that is there is taken"
    )
    optional: bool = Field(False, description="left out where there is none of its networks")

    @model_validator(mode="after")
    def _is_what_it_is_called(self) -> Self:
        allowed = NETWORKS_OF[self.metric]
        wrong = set(self.networks) - set(allowed)
        if wrong or bool(self.networks) != bool(allowed):
            raise ValueError(
                f"{self.metric} is computed with {' or '.join(allowed) or 'no network'}, not with "
                f"{', '.join(self.networks) or 'none'}"
            )
        return self


class Protocol(StrictModel):
    """How a set of videos becomes numbers."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    num_frames: int | None = Field(
        16, ge=2, le=512, description="of a clip; null: as many as the shortest generated video has"
    )
    stride_frames: int = Field(1, ge=1, description="every how manieth frame is taken")
    frames: FramesConfig
    fit: Fit = Field(
        description="how a frame that is not square gets into a network that takes squares: "
        "squash it, or resize the shorter side and crop"
    )
    images: Literal["clips", "videos"] = Field(
        description="FID, KID and IS are of the frames of the clips, or of all frames of the videos"
    )
    real: SideConfig
    generated: SideConfig
    ddof: Literal[0, 1] = Field(description="covariances are divided by N - ddof")
    seed: int = Field(0, ge=0, description="of random offsets, random sets and of the bootstrap")
    resamples: int = Field(50, ge=0, le=10_000, description="of the bootstrap; 0: no intervals")
    kernel: KernelConfig = KernelConfig()
    inception_score: ScoreConfig = ScoreConfig()
    metrics: tuple[MetricConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        names = [each.metric for each in self.metrics]
        twice = sorted({each for each in names if names.count(each) > 1})
        if twice:
            raise ValueError(f"metrics: {', '.join(twice)} is there twice")
        for side, config in (("real", self.real), ("generated", self.generated)):
            if config.repeat and config.num_clips is None:
                raise ValueError(f"{side}.repeat needs {side}.num_clips, which ends it")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of all that the protocol says, its name included."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def built_in_protocols() -> list[str]:
    """Names of the protocols that ship with the package."""
    return sorted(each.name[:-5] for each in _folder().iterdir() if each.name.endswith(".yaml"))


def load_protocol(source: str | Path) -> Protocol:
    """Read a protocol by the name of a built-in one or by file.

    Raises
    ------
    ConfigError
        When there is none, or it is not a valid one.
    """
    path = Path(source)
    if path.suffix not in {".yaml", ".yml"} and str(source) in built_in_protocols():
        text = (_folder() / f"{source}.yaml").read_text(encoding="utf-8")
        where = f"built-in protocol {source}"
        return validate(Protocol, parse_yaml(text, where), where)
    if not path.is_file():
        raise ConfigError(
            f"no protocol at {source}: give a YAML file or one of the built-in protocols "
            f"({', '.join(built_in_protocols())})"
        )
    return validate(Protocol, read_yaml(path), str(path))


def _folder() -> Traversable:
    return resources.files("feat_fed.evaluate") / "protocols"
