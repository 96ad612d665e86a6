"""What a benchmark says of itself, as data: layout, counts, sizes, splits, and who counted."""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from feat_fed.config.base import StrictModel
from feat_fed.config.load import parse_yaml, read_yaml, validate
from feat_fed.errors import ConfigError

Layout = Literal["frames", "videos", "list", "any", "manifest"]
"""A folder of pictures a video; video files, however deep; video files that a CSV names; whatever
can be read; a CSV of the user's that names files."""

ALL = "all"
"""The split that is no split."""


class VideoList(StrictModel):
    """The CSV of a benchmark that names its videos."""

    file: str = Field(description="below the benchmark's folder")
    name: str = Field(description="column of the videos' names")
    split: str = Field(description="column of their splits, whatever its case")
    folder: str = Field(description="where the videos are, below the benchmark's folder")
    suffix: str = Field(description="of a name that has none")


class Benchmark(StrictModel):
    """Real videos that a model is measured against."""

    name: str = Field(pattern=r"[a-z0-9][a-z0-9._-]*")
    about: str = Field("", description="one sentence")
    sources: tuple[str, ...] = Field((), description="where layout and counts stand")
    layouts: tuple[Layout, ...] = Field(("any",), min_length=1, description="in this order")
    below: tuple[str, ...] = Field(
        (".",), min_length=1, description="sub-folders that may hold it; the first that is there"
    )
    num_videos: int | None = Field(None, ge=1, description="null: nobody has published it")
    num_frames: int | None = Field(None, ge=1, description="of all videos together")
    frame_size_px: tuple[int, int] | None = Field(
        None, description="height and width of the frames in layout `frames` and `list`"
    )
    frames_list: str | None = Field(
        None, description="text file beside the videos that names every frame"
    )
    video_list: VideoList | None = None
    videos: tuple[str, ...] = Field((), description="the videos' names, where they are known")
    splits: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="names of a split's videos"
    )
    split_counts: dict[str, int] = Field(
        default_factory=dict, description="videos of each split of video_list"
    )
    default_split: str = ALL

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if ("list" in self.layouts) != (self.video_list is not None):
            raise ValueError("layout `list` and video_list go together")
        if self.videos and self.num_videos not in (None, len(set(self.videos))):
            raise ValueError(f"num_videos is {self.num_videos} and videos has {len(self.videos)}")
        unknown = Counter(name for names in self.splits.values() for name in names)
        if strangers := unknown.keys() - set(self.videos):
            raise ValueError(f"splits name {sorted(strangers)[0]!r}, which videos does not")
        if self.default_split not in self.all_splits:
            raise ValueError(f"default_split {self.default_split!r} is not among the splits")
        return self

    @property
    def all_splits(self) -> tuple[str, ...]:
        """Every split that can be asked for."""
        return (ALL, *self.splits, *self.split_counts)


def built_in_benchmarks() -> list[str]:
    """Names of the benchmarks that ship with the package."""
    folder = resources.files("feat_fed.evaluate.benchmarks")
    return sorted(each.name[:-5] for each in folder.iterdir() if each.name.endswith(".yaml"))


def load_benchmark(source: str) -> Benchmark:
    """Read the description of a built-in benchmark, or a YAML file of the same form.

    Raises
    ------
    ConfigError
        When it is neither, or says what cannot be.
    """
    path = Path(source)
    if path.suffix in {".yaml", ".yml"}:
        return validate(Benchmark, read_yaml(path), str(path))
    if source not in built_in_benchmarks():
        raise ConfigError(
            f"no benchmark {source!r}: give one of {', '.join(built_in_benchmarks())}, "
            "or a YAML file that describes yours"
        )
    resource = resources.files("feat_fed.evaluate.benchmarks") / f"{source}.yaml"
    about = f"built-in benchmark {source}"
    return validate(Benchmark, parse_yaml(resource.read_text(encoding="utf-8"), about), about)
