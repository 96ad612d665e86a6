"""Weights in a few large buckets: Flower's cost is per object, not per byte.

A bucket is a safetensors file in memory, which names, shapes and types its tensors and
holds no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from feat_fed.errors import ProtocolError
from feat_fed.finite import all_finite

BUCKET_BYTES = 32 * 1024**2
_HEADER_BYTES_PER_TENSOR = 512


def pack(tensors: Mapping[str, Tensor], *, bucket_bytes: int = BUCKET_BYTES) -> list[bytes]:
    """Serialise in name order; a tensor is never split, so a large one may exceed the size."""
    return [save(group) for group in _groups(tensors, bucket_bytes)]


def unpack(buckets: Sequence[bytes], schema: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read buckets that came over the wire.

    Parameters
    ----------
    schema
        Tensors with the expected names, shapes and dtypes (the meta device will do).

    Raises
    ------
    ProtocolError
        If the buckets are larger than the schema allows, not safetensors, or if a tensor
        is missing, unknown, sent twice, of another shape or dtype, or not finite.
    """
    _check_size(buckets, schema)
    tensors: dict[str, Tensor] = {}
    for bucket in buckets:
        try:
            part = load(bucket)
        except (SafetensorError, ValueError, RuntimeError, KeyError):
            raise ProtocolError("a bucket of weights is not a safetensors file") from None
        if not tensors.keys().isdisjoint(part):
            raise ProtocolError("a tensor was sent twice")
        tensors.update(part)
    check_tensors(tensors, schema)
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], schema: Mapping[str, Tensor]) -> None:
    """Raise :class:`ProtocolError` unless names, shapes, dtypes fit and all values are finite."""
    missing, unknown = len(schema.keys() - tensors.keys()), len(tensors.keys() - schema.keys())
    if missing or unknown:
        raise ProtocolError(f"{missing} tensors are missing and {unknown} are unknown")
    for name, expected in schema.items():
        got = tensors[name]
        if got.shape != expected.shape:
            raise ProtocolError(f"{name} has another shape than {tuple(expected.shape)}")
        if got.dtype != expected.dtype:
            raise ProtocolError(f"{name} has another dtype than {expected.dtype}")
        if not all_finite(got):
            raise ProtocolError(f"{name} is not finite")


def _groups(tensors: Mapping[str, Tensor], bucket_bytes: int) -> Iterable[dict[str, Tensor]]:
    group: dict[str, Tensor] = {}
    filled = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if group and filled + tensor.nbytes > bucket_bytes:
            yield group
            group, filled = {}, 0
        group[name] = tensor
        filled += tensor.nbytes
    if group:
        yield group


def _check_size(buckets: Sequence[bytes], schema: Mapping[str, Tensor]) -> None:
    payload = sum(each.numel() * each.element_size() for each in schema.values())
    allowed = payload + _HEADER_BYTES_PER_TENSOR * (len(schema) + 1)
    got = sum(len(bucket) for bucket in buckets)
    if got > allowed or len(buckets) > len(schema):
        raise ProtocolError(
            f"{got} bytes in {len(buckets)} buckets; this model has at most {allowed}"
        )
