"""The forms in which one tensor of float32 travels.

A form turns a tensor into parts, each a tensor of a shape and dtype that the form and the
tensor's shape decide, and parts into a tensor. The two ends must get the same bits: products
and sums are separate operations, which IEEE 754 rounds alike on every processor, and a fused
one would not be.

Legend: N values of a tensor, R rows (its first dimension), K values sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from feat_fed.errors import ProtocolError
from feat_fed.federate.places import largest, pack_places, places_spec, unpack_places

Spec = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
Parts = Mapping[str, Tensor]

VALUES, SCALE, PLACES = "", "scale/", "places/"
"""Prefixes that make a part's name of its tensor's."""

_FP16_EXPONENT = 15
_FP16_MOST = 32752.0
"""The largest float16 below 2^15, to which a scaled tensor's largest value might be rounded up."""
_INT8_MOST = 127
_INT8_MOST_SCALE = torch.finfo(torch.float32).max / 128
"""127 of it are finite in float32."""


class Form(Protocol):
    """One way to send a float32 tensor."""

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """Return shape and dtype of each part of a tensor, by the part's prefix."""

    def encode(self, tensor: Tensor) -> Parts:
        """Return a finite tensor's parts."""

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """Return a new tensor of what parts that meet the specification say.

        Raises
        ------
        ProtocolError
            If they say what :meth:`encode` never does.
        """


@dataclass(frozen=True)
class BFloat16:
    """Rounded to bfloat16; beyond its range, its largest value."""

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """Return two bytes a value."""
        return {VALUES: (shape, torch.bfloat16)}

    def encode(self, tensor: Tensor) -> Parts:
        """Round to nearest, ties to even."""
        most = torch.finfo(torch.bfloat16).max
        return {VALUES: tensor.clamp(-most, most).to(torch.bfloat16)}

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """Widen."""
        return parts[VALUES].float()


@dataclass(frozen=True)
class Float16:
    """Rounded to float16 in units of a power of two for each tensor.

    With the power the largest value lies in [2^14, 2^15): nothing overflows, and differences
    of 1e-7 keep the bits that float16's subnormals would cost them.
    """

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """Return two bytes a value and a scale."""
        return {VALUES: (shape, torch.float16), SCALE: ((), torch.float32)}

    def encode(self, tensor: Tensor) -> Parts:
        """Divide by the scale and round to nearest, ties to even."""
        scale = _power_of_two(_greatest(tensor))
        values = (tensor / scale).clamp_(-_FP16_MOST, _FP16_MOST)
        return {VALUES: values.to(torch.float16), SCALE: scale}

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """Widen and multiply."""
        return parts[VALUES].float().mul_(_checked(parts[SCALE]))


@dataclass(frozen=True)
class Int8:
    """Symmetric integers in [-127, 127] in units of a float32 scale for each row.

    A row is what belongs to one index of the first dimension, a layer's output channel; a
    tensor of one dimension or none is one row. scale = max |x| / 127.
    """

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """Return a byte a value and four a row."""
        rows = shape[:1] if len(shape) > 1 else ()
        return {VALUES: (shape, torch.int8), SCALE: (rows, torch.float32)}

    def encode(self, tensor: Tensor) -> Parts:
        """Divide by the row's scale and round to nearest, ties to even."""
        x_RN = _rows(tensor)
        scale_R = _greatest(x_RN, by_row=True).div_(_INT8_MOST).clamp_(max=_INT8_MOST_SCALE)
        # A row of zeros, or of numbers so small that their scale is zero, is sent as zeros.
        units_R = torch.where(scale_R > 0, scale_R, torch.inf)
        q_RN = (x_RN / units_R[:, None]).round_().clamp_(-_INT8_MOST, _INT8_MOST)
        (rows, _) = self.spec(tuple(tensor.shape))[SCALE]
        return {
            VALUES: q_RN.to(torch.int8).view(tensor.shape),
            SCALE: scale_R.view(rows),
        }

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """Multiply by the scales."""
        q = parts[VALUES]
        if q.numel() and int(q.min()) < -_INT8_MOST:
            raise ProtocolError("integers beyond the form's range")
        x_RN = _rows(q.float())
        return x_RN.mul_(_checked(parts[SCALE]).reshape(-1, 1)).view(shape)


@dataclass(frozen=True)
class TopK:
    """The values of greatest magnitude, as float16, and their places; the others are zero.

    Of each tensor, and not of the whole model: a few layers with large numbers do not silence
    the others, the size of each part is known before it comes, and a tensor at a time is in
    memory. (Deep Gradient Compression, arXiv 1712.01887, selects by layer, too.)
    """

    share: float

    def spec(self, shape: tuple[int, ...]) -> Spec:
        """Return two bytes a sent value, their places and a scale."""
        size = math.prod(shape)
        count = self._count(size)
        return {
            VALUES: ((count,), torch.float16),
            SCALE: ((), torch.float32),
            PLACES: places_spec(count=count, size=size),
        }

    def encode(self, tensor: Tensor) -> Parts:
        """Choose and round."""
        x_N = tensor.reshape(-1)
        places = largest(x_N, self._count(x_N.numel()))
        return {
            **Float16().encode(x_N[places]),
            PLACES: pack_places(places, size=x_N.numel()),
        }

    def decode(self, parts: Parts, shape: tuple[int, ...]) -> Tensor:
        """Put the values in their places."""
        size = math.prod(shape)
        values_K = Float16().decode(parts, ())
        places = unpack_places(parts[PLACES], count=values_K.numel(), size=size)
        return torch.zeros(size).index_copy_(0, places, values_K).view(shape)

    def _count(self, size: int) -> int:
        return min(size, math.ceil(self.share * size))


def _rows(tensor: Tensor) -> Tensor:
    """View as rows of values."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def _greatest(x: Tensor, *, by_row: bool = False) -> Tensor:
    """Return the greatest magnitude, or each row's; zero of nothing."""
    if not x.numel():
        return torch.zeros(x.shape[:1] if by_row else ())
    least, most = torch.aminmax(x, dim=1) if by_row else torch.aminmax(x)
    return torch.maximum(-least, most)


def _power_of_two(greatest: Tensor) -> Tensor:
    """Return the scale in whose units ``greatest`` lies in [2^14, 2^15); one of zero."""
    _, exponent = torch.frexp(greatest)
    # Not below the least normal number: others are slow, and zero on some processors.
    exponent = (exponent - _FP16_EXPONENT).clamp_(min=-126)
    scale = torch.ldexp(torch.ones(()), exponent)
    return torch.where(greatest > 0, scale, torch.ones(()))


def _checked(scale: Tensor) -> Tensor:
    if bool((scale < 0).any()):
        raise ProtocolError("a scale below zero")
    return scale
