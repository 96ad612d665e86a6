"""Features of real videos on disk: computed once for all evaluations against them."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from feat_fed.config.base import StrictModel
from feat_fed.data.reading.reader import READER_VERSION
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.evaluate.clips import ClipSource
from feat_fed.evaluate.features import Extracted, Running, extract
from feat_fed.evaluate.networks import FeatureNetwork
from feat_fed.evaluate.plan import Plan
from feat_fed.evaluate.prepare import PREPARE_VERSION
from feat_fed.evaluate.protocol import Protocol
from feat_fed.tensor_file import read_tensor_file, write_tensor_file

_log = logging.getLogger(__name__)


class FeaturesHeader(StrictModel):
    """Of a file of features: digests of all that decides them."""

    kind: Literal["features"] = "features"
    version: Literal[1] = 1
    reader: int = READER_VERSION
    prepare: int = PREPARE_VERSION
    content: str
    protocol: str
    network: str
    plan: str


def extract_once(
    folder: Path,
    source: ClipSource,
    plan: Plan,
    network: FeatureNetwork,
    protocol: Protocol,
    running: Running,
) -> Extracted:
    """Return the features of real videos, from ``folder`` where they are known there.

    A file is named by the content of the videos, the protocol, the plan and the network. What is
    damaged or of something else is computed anew and replaced. A folder that cannot be written
    costs the time of the next computation, and a warning in the log.

    Raises
    ------
    DataError
        As by :func:`feat_fed.evaluate.features.extract`.
    """
    key = FeaturesHeader(
        content=source.digest,
        protocol=protocol.digest(),
        network=network.sha256,
        plan=_digest_of(plan),
    )
    name = hashlib.sha256(key.model_dump_json().encode()).hexdigest()
    path = folder / f"{network.name}-{name[:32]}.safetensors"
    known = _read(path, key)
    if known is not None:
        return known
    max_images = protocol.real.max_images
    found = extract(source, plan, network, protocol, running, max_images=max_images)
    _write(path, key, found)
    return found


def _digest_of(plan: Plan) -> str:
    clips = [[clip.video, clip.start] for clip in plan.clips]
    text = json.dumps([clips, plan.num_frames, plan.stride_frames, plan.size_px])
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, key: FeaturesHeader) -> Extracted | None:
    if not path.is_file():
        return None
    try:
        header, tensors = read_tensor_file(path, FeaturesHeader)
        if header != key:
            raise CheckpointError(f"{path} holds features of something else")
        features, videos = tensors["features"].numpy(), tensors["videos"].numpy()
    except (CheckpointError, KeyError) as error:
        _log.warning("stored features are computed again: %s", error)
        return None
    return Extracted(features, videos.astype(np.intp))


def _write(path: Path, key: FeaturesHeader, found: Extracted) -> None:
    tensors = {
        "features": torch.from_numpy(found.features_ND),
        "videos": torch.from_numpy(found.videos_N.astype(np.int64)),
    }
    try:
        write_tensor_file(path, tensors, key, durable=False)
    except StorageError as error:
        _log.warning("features are not kept: %s", error)
