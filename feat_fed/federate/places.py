"""Which of a tensor's values are sent: as positions, or as a bit for each, whichever is smaller."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from feat_fed.errors import ProtocolError

_LARGEST = 2**31
"""Positions beyond do not fit into int32."""


def places_spec(*, count: int, size: int) -> tuple[tuple[int], torch.dtype]:
    """Return shape and dtype of ``count`` places among ``size`` values."""
    bitmap_bytes = -(-size // 8)
    if size <= _LARGEST and 4 * count <= bitmap_bytes:
        return (count,), torch.int32
    return (bitmap_bytes,), torch.uint8


def largest(values_N: Tensor, count: int) -> Tensor:
    """Return the places of the ``count`` values of greatest magnitude, ascending, as int64.

    Of equals at the threshold the first are taken, so the choice depends on no library.
    """
    if count >= values_N.numel():
        return torch.arange(values_N.numel())
    magnitudes_N = values_N.abs()
    threshold = torch.topk(magnitudes_N, count, sorted=False).values.min()
    above = torch.nonzero(magnitudes_N > threshold).flatten()
    equal = torch.nonzero(magnitudes_N == threshold).flatten()[: count - above.numel()]
    return torch.cat([above, equal]).sort().values


def pack_places(places: Tensor, *, size: int) -> Tensor:
    """Return ascending places in the form of :func:`places_spec`."""
    _, dtype = places_spec(count=places.numel(), size=size)
    if dtype == torch.int32:
        return places.to(torch.int32)
    chosen = np.zeros(size, dtype=bool)
    chosen[places.numpy()] = True
    return torch.from_numpy(np.packbits(chosen))


def unpack_places(packed: Tensor, *, count: int, size: int) -> Tensor:
    """Return the places as int64.

    Raises
    ------
    ProtocolError
        Unless they are ``count`` different ones below ``size``, in ascending order.
    """
    if packed.dtype == torch.int32:
        places = packed.to(torch.int64)
        in_range = not count or (int(places[0]) >= 0 and int(places[-1]) < size)
        if not in_range or not bool((places.diff() > 0).all()):
            raise ProtocolError("places that are out of range, repeated or in no order")
        return places
    bits = np.unpackbits(packed.numpy())
    places = torch.from_numpy(np.flatnonzero(bits))
    if places.numel() != count or (count and int(places[-1]) >= size):
        raise ProtocolError("a bitmap of another number of places")
    return places
