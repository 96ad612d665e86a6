"""Weights in a few large buckets: Flower's cost is per object, not per byte.

A bucket is a safetensors file in memory, which names, shapes and types its tensors and
holds no code. What belongs to one tensor of the model (a group) is in one bucket.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor

from feat_fed.errors import ProtocolError
from feat_fed.federate.views import tensor_views
from feat_fed.finite import all_finite

BUCKET_BYTES = 30 * 1024**2 - 64 * 1024
"""With its header six of Flower's chunks of 5 MiB: each is a request, and what is over is, too.

Above 32 MiB glibc gives each block back to the kernel, and the next one is of fresh pages."""
_HEADER_BYTES_PER_PART = 512

Part = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype."""


class Described(Protocol):
    """Shape and dtype of a tensor: one on the meta device, or its specification."""

    @property
    def shape(self) -> Sequence[int]:
        """Of all its dimensions."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its elements."""


def pack(tensors: Mapping[str, Tensor], *, bucket_bytes: int = BUCKET_BYTES) -> list[bytes]:
    """Serialise tensors as they are, in name order."""
    return pack_groups(({name: tensors[name]} for name in sorted(tensors)), bucket_bytes)


def unpack(buckets: Sequence[bytes], schema: Mapping[str, Described]) -> dict[str, Tensor]:
    """Read what :func:`pack` made and came over the wire; ``schema`` says what must be in it.

    Raises
    ------
    ProtocolError
        As :func:`unpack_groups` does.
    """
    groups = {name: {name: (tuple(each.shape), each.dtype)} for name, each in schema.items()}
    return {name: parts[name] for name, parts in unpack_groups(buckets, groups)}


def pack_groups(
    groups: Iterable[Mapping[str, Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> list[bytes]:
    """Serialise in the order given; a group is never split, so a large one may exceed the size."""
    buckets: list[bytes] = []
    bucket: dict[str, Tensor] = {}
    filled = 0
    for group in groups:
        parts = {name: each.detach().cpu().contiguous() for name, each in group.items()}
        size = sum(each.nbytes for each in parts.values())
        if bucket and filled + size > bucket_bytes:
            buckets.append(save(bucket))
            bucket, filled = {}, 0
        bucket |= parts
        filled += size
    return [*buckets, save(bucket)] if bucket else buckets


def unpack_groups(
    buckets: Sequence[bytes], groups: Mapping[str, Mapping[str, Part]]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each group's name and parts from buckets that came over the wire, in their order.

    What was yielded is good only once the last bucket has been read, and is a view of it: it must
    not be changed.

    Parameters
    ----------
    groups
        What must come: the parts of each group.

    Raises
    ------
    ProtocolError
        If the buckets are larger than that allows, not safetensors, or if a part is missing,
        unknown, sent twice, apart from its group, of another shape or dtype, or not finite.
    """
    _check_size(buckets, groups)
    group_of = {part: name for name, parts in groups.items() for part in parts}
    read: set[str] = set()
    unknown = 0
    for bucket in buckets:
        found = _loaded(bucket)
        unknown += len(found.keys() - group_of.keys())
        for name in sorted({group_of[part] for part in found if part in group_of}):
            if name in read:
                raise ProtocolError("a tensor was sent twice", refusal="tensors")
            if not groups[name].keys() <= found.keys():
                raise ProtocolError(f"{name} is not whole", refusal="tensors")
            for part, (shape, dtype) in groups[name].items():
                check_tensor(found[part], name, shape, dtype)
            read.add(name)
            yield name, {part: found[part] for part in groups[name]}
    missing = len(groups.keys() - read)
    if missing or unknown:
        raise ProtocolError(
            f"{missing} tensors are missing and {unknown} are unknown", refusal="tensors"
        )


def check_tensor(tensor: Tensor, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise :class:`ProtocolError` unless shape and dtype fit and all values are finite."""
    if tuple(tensor.shape) != tuple(shape):
        raise ProtocolError(f"{name} has another shape than {tuple(shape)}", refusal="tensors")
    if tensor.dtype != dtype:
        raise ProtocolError(f"{name} has another dtype than {dtype}", refusal="tensors")
    if not all_finite(tensor):
        raise ProtocolError(f"{name} is not finite", refusal="not-finite")


def _loaded(bucket: bytes) -> dict[str, Tensor]:
    try:
        return tensor_views(bucket)
    except ValueError:
        raise ProtocolError("a bucket of weights is not a safetensors file") from None


def _check_size(buckets: Sequence[bytes], groups: Mapping[str, Mapping[str, Part]]) -> None:
    parts = [part for each in groups.values() for part in each.values()]
    payload = sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts)
    allowed = payload + _HEADER_BYTES_PER_PART * (len(parts) + 1)
    got = sum(len(bucket) for bucket in buckets)
    if got > allowed or len(buckets) > len(groups):
        raise ProtocolError(
            f"{got} bytes in {len(buckets)} buckets; this model has at most {allowed}"
        )
