"""What a model's weights must look like: names, shapes, types, and a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.model.feat import FEAT

_TOLD_BY_TENSORS = {"num_classes"}
"""Fields that show in a tensor's shape; files written before they existed keep their print."""


@dataclass(frozen=True)
class TensorSpec:
    """What one tensor must be."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """Describe a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)


@lru_cache(maxsize=16)
def state_schema(config: FEATConfig) -> Mapping[str, TensorSpec]:
    """Return name and specification of every tensor of the model, without making its weights."""
    with torch.device("meta"):
        state = FEAT(config).state_dict()
    return MappingProxyType({name: TensorSpec.of(tensor) for name, tensor in state.items()})


def mismatches(tensors: Mapping[str, Tensor], schema: Mapping[str, TensorSpec]) -> list[str]:
    """Return a phrase for each tensor that is missing, unknown or not as specified.

    Unknown names come from elsewhere and may be long or strange; they are only counted.
    """
    faults = [f"{name} is missing" for name in schema if name not in tensors]
    unknown = len(tensors.keys() - schema.keys())
    if unknown:
        faults.append(f"{unknown} tensors do not belong to the model")
    for name, spec in schema.items():
        if name in tensors and (found := TensorSpec.of(tensors[name])) != spec:
            faults.append(f"{name} is {found}, not {spec}")
    return faults


def fingerprint(config: FEATConfig) -> str:
    """Return the SHA-256 of what decides whether two sets of weights may be mixed.

    That is the tensors that this version of the code makes of the configuration, and every
    field that they do not tell.
    """
    tensors = [f"{name} {spec}" for name, spec in state_schema(config).items()]
    fields = config.model_dump_json(exclude=_TOLD_BY_TENSORS)
    return hashlib.sha256("\n".join([fields, *tensors]).encode()).hexdigest()
