"""Tensors as what Flower's strategies take and give."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from torch import Tensor

WEIGHT_KEY = "weight"
"""Under which a strategy finds a site's weight in the mean."""


def to_arrays(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return Flower's form of the tensors."""
    return ArrayRecord.from_torch_state_dict(dict(tensors))


def tensors_of(arrays: ArrayRecord | None) -> dict[str, Tensor]:
    """Return what a strategy made; nothing of nothing."""
    return {name: torch.from_numpy(each.numpy()) for name, each in (arrays or {}).items()}


def reply_of(tensors: Mapping[str, Tensor], *, weight: float = 1) -> Message:
    """Return a site's reply as strategies want it."""
    content = RecordDict(
        {"arrays": to_arrays(tensors), "metrics": MetricRecord({WEIGHT_KEY: weight})}
    )
    return Message(content, dst_node_id=1, message_type="train")
