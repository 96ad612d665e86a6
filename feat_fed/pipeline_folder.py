"""A pipeline's folder, of diffusers' layout.

::

    FOLDER/model_index.json     what the parts are, and how large a clip is
    FOLDER/model/               the network: config.json, diffusion_pytorch_model.safetensors
    FOLDER/scheduler/           scheduler_config.json
    FOLDER/codec/               config.json, weights/ of a learned codec; absent where the codec
                                is none of ours

``diffusers.DiffusionPipeline`` imports the modules that such a folder names, and writes files
that a crash can leave half done. Here a folder's words import nothing, and the index is
written last: without it the folder is no pipeline.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from feat_fed.atomic import atomic_path
from feat_fed.codec import build_codec
from feat_fed.codec.files import weights_files
from feat_fed.config import CodecConfig
from feat_fed.config.base import StrictModel
from feat_fed.diffusion import read_scheduler
from feat_fed.diffusion.schedulers import SCHEDULERS
from feat_fed.errors import CheckpointError, ConfigError
from feat_fed.model import FEAT
from feat_fed.model.pretrained import (
    CONFIG_FILE,
    MODEL_FOLDER,
    first_fault,
    make_folder,
    read_config,
    write_config,
)

ModelT = TypeVar("ModelT", bound=StrictModel)

INDEX_FILE = "model_index.json"
_SCHEDULER_FILE = "scheduler_config.json"
_PRINT = "fingerprint"
_WEIGHTS = "weights"


class ClipSize(StrictModel):
    """How large the clips are that a pipeline makes unless told otherwise."""

    num_frames: int = Field(ge=1, le=4096)
    height: int = Field(ge=1, le=4096, description="pixels; latent pixels without a codec")
    width: int = Field(ge=1, le=4096, description="pixels; latent pixels without a codec")


@dataclass(frozen=True)
class PipelineParts:
    """What a folder holds; see :class:`~feat_fed.pipeline.FEATPipeline`."""

    model: FEAT
    scheduler: Any
    codec: CodecConfig | None
    size: ClipSize
    codec_name: str | None


class _Index(ClipSize):
    """``model_index.json``: a part is the library and the class that read it, or two nulls."""

    model: tuple[str, str]
    scheduler: tuple[str, str]
    codec: tuple[str, str] | tuple[None, None]
    codec_name: str | None = Field(max_length=200)


def write_pipeline(root: Path, parts: PipelineParts) -> None:
    """Write the parts, then the index.

    Raises
    ------
    CheckpointError
        If a file cannot be written.
    """
    for folder in (root, root / MODEL_FOLDER, root / "scheduler"):
        make_folder(folder)
    (root / INDEX_FILE).unlink(missing_ok=True)
    parts.model.save_pretrained(root / MODEL_FOLDER)
    kind = type(parts.scheduler).__name__
    write_config(root / "scheduler" / _SCHEDULER_FILE, kind, parts.scheduler.config)
    if parts.codec is not None:
        _write_codec(root / "codec", parts.codec)
    index = _Index(
        **parts.size.model_dump(),
        model=("feat_fed.model", "FEAT"),
        scheduler=("diffusers", kind),
        codec=(None, None) if parts.codec is None else ("feat_fed.config", "CodecConfig"),
        codec_name=parts.codec_name,
    )
    write_config(root / INDEX_FILE, "FEATPipeline", index.model_dump())


def read_pipeline(root: Path) -> PipelineParts:
    """Read what :func:`write_pipeline` wrote.

    Raises
    ------
    CheckpointError
        If the folder is absent, damaged, or of something else.
    """
    if (root / CONFIG_FILE).exists() and not (root / INDEX_FILE).exists():
        raise CheckpointError(
            f"{root} holds a network alone, without {INDEX_FILE}: read it with "
            "FEAT.from_pretrained, and give FEATPipeline the other parts"
        )
    _, fields = read_config(root / INDEX_FILE, ["FEATPipeline"])
    index = _validated(_Index, fields, root / INDEX_FILE)
    return PipelineParts(
        FEAT.from_pretrained(root / MODEL_FOLDER),
        _read_scheduler(root / "scheduler" / _SCHEDULER_FILE),
        _read_codec(root / "codec") if index.codec[0] else None,
        ClipSize(num_frames=index.num_frames, height=index.height, width=index.width),
        index.codec_name,
    )


def _read_scheduler(path: Path) -> Any:  # noqa: ANN401
    class_name, fields = read_config(path, list(SCHEDULERS.values()))
    try:
        return read_scheduler(class_name, fields)
    except ConfigError as error:
        raise CheckpointError(f"{path} is no scheduler of this pipeline: {error}") from None


def _write_codec(folder: Path, codec: CodecConfig) -> None:
    """Write the configuration, without a path of this machine, and copy the weights, if any."""
    make_folder(folder)
    fields = codec.model_dump(mode="json", exclude={"weights"})
    fields[_PRINT] = build_codec(codec).fingerprint
    if codec.weights is not None:
        make_folder(folder / _WEIGHTS)
        for path in weights_files(codec.kind, codec.weights):
            _copy(path, folder / _WEIGHTS / path.name)
    write_config(folder / CONFIG_FILE, "CodecConfig", fields)


def _copy(path: Path, to: Path) -> None:
    if to.exists() and to.samefile(path):  # a folder that is written over itself
        return
    try:
        with atomic_path(to) as part:
            shutil.copyfile(path, part)
    except OSError as error:
        raise CheckpointError(f"{to} cannot be written: {error.strerror}") from error


def _read_codec(folder: Path) -> CodecConfig:
    path = folder / CONFIG_FILE
    _, fields = read_config(path, ["CodecConfig"])
    fingerprint = fields.pop(_PRINT, None)
    codec = _validated(CodecConfig, {**fields, "weights": _weights_in(folder)}, path)
    try:
        found = build_codec(codec).fingerprint
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    if found != fingerprint:
        raise CheckpointError(f"{path} is of a codec whose latents this feat-fed cannot decode")
    return codec


def _weights_in(folder: Path) -> Path | None:
    """Return the one file of the folder's weights, the folder of several, or None."""
    weights = folder / _WEIGHTS
    if not weights.is_dir():
        return None
    files = [each for each in weights.iterdir() if not each.name.startswith(".")]
    return files[0] if len(files) == 1 else weights


def _validated(model: type[ModelT], fields: dict[str, Any], path: Path) -> ModelT:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {first_fault(error)}") from None
