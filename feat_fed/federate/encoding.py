"""Weights into buckets and back, in the study's forms.

Only tensors of float32 are rounded. Any other (counters, buffers of integers, halves) travels
whole and exact in every form.

Error feedback (1-bit SGD, Seide et al. 2014; EF-SGD, arXiv 1901.09847, Algorithm 2): with
residual e and form C, what is sent of x is C(x + e), and the next e is x + e - C(x + e). What
one sending leaves out is in the next ones, so their sum differs from the sum of the x by the
last residual alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from feat_fed.config import TransferConfig
from feat_fed.errors import ProtocolError, TrainingError
from feat_fed.federate.buckets import (
    BUCKET_BYTES,
    Described,
    Part,
    check_tensor,
    pack_groups,
    unpack_groups,
)
from feat_fed.federate.forms import VALUES, BFloat16, Float16, Form, Int8, TopK

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class Encoded:
    """What goes over the wire, and what it leaves out."""

    buckets: list[bytes]
    residual: dict[str, Tensor] = field(default_factory=dict)
    """float32, of the tensors that were rounded."""

    @property
    def size_bytes(self) -> int:
        """Of all buckets."""
        return sum(len(bucket) for bucket in self.buckets)


def form_of(transfer: TransferConfig, direction: Direction) -> Form | None:
    """Return the study's form for a direction; None: as they are."""
    forms: dict[str, Form | None] = {
        "fp32": None,
        "bf16": BFloat16(),
        "fp16": Float16(),
        "int8": Int8(),
        "topk": TopK(transfer.topk_share),
    }
    return forms[transfer.up if direction == "up" else transfer.down]


def whole_form(transfer: TransferConfig) -> Form | None:
    """Return the form of weights for a site that does not have those before them.

    Where others get a difference, what it led them to travels exactly.
    """
    return None if transfer.down_is_delta else form_of(transfer, "down")


def encode(
    weights: Mapping[str, Tensor],
    form: Form | None,
    *,
    base: Mapping[str, Tensor] | None = None,
    residual: Mapping[str, Tensor] | None = None,
    bucket_bytes: int = BUCKET_BYTES,
) -> Encoded:
    """Make buckets of the weights, or of their difference from ``base``.

    The same arguments give the same bytes. In memory, beside arguments and result, is a bucket
    at a time.

    Parameters
    ----------
    weights, base
        On the CPU, of the same names, shapes and dtypes.
    form
        None: weights travel as they are, whatever the base.
    residual
        Of the sending before; None where there was none.

    Raises
    ------
    TrainingError
        If a difference is not finite.
    """
    left: dict[str, Tensor] = {}

    def groups() -> Iterator[Mapping[str, Tensor]]:
        for name in sorted(weights):
            tensor = weights[name].detach().cpu().contiguous()
            if form is None or tensor.dtype != torch.float32:
                yield {VALUES + name: tensor}
                continue
            target = _target(name, tensor, base, residual)
            parts = form.encode(target)
            left[name] = target.sub_(form.decode(parts, tuple(tensor.shape)))
            yield {prefix + name: part for prefix, part in parts.items()}

    return Encoded(pack_groups(groups(), bucket_bytes), left)


def decode(
    buckets: Sequence[bytes],
    form: Form | None,
    schema: Mapping[str, Described],
    *,
    base: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Read buckets that came over the wire and were made by :func:`encode`.

    Parameters
    ----------
    schema
        Names, shapes and dtypes of the weights.
    base
        To which the difference is added; None where whole weights came.

    Raises
    ------
    ProtocolError
        If they are larger than the form allows, not safetensors, of other names, shapes or
        dtypes, say what the form does not, or if a weight is not finite.
    """
    weights: dict[str, Tensor] = {}
    for name, parts in unpack_groups(buckets, wire_schema(schema, form)):
        shape, dtype = tuple(schema[name].shape), schema[name].dtype
        if form is None or dtype != torch.float32:
            weights[name] = parts[name]
            continue
        try:
            tensor = form.decode({k.removesuffix(name): each for k, each in parts.items()}, shape)
        except ProtocolError as error:
            raise ProtocolError(f"{name} has {error}") from None
        if base is not None:
            tensor.add_(base[name])
        check_tensor(tensor, name, shape, dtype)
        weights[name] = tensor
    return {name: weights[name] for name in schema}


def rebase(
    weights: Mapping[str, Tensor],
    *,
    received: Mapping[str, Tensor],
    onto: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return ``onto + (weights - received)`` for float32; other tensors as they came.

    The server's own weights differ from those that the sites received by what the form down
    rounded, and a site's update counts from what it received.

    Raises
    ------
    ProtocolError
        If a weight is not finite.
    """
    rebased = dict(weights)
    for name, tensor in weights.items():
        if tensor.dtype == torch.float32:
            rebased[name] = (tensor - received[name]).add_(onto[name])
            check_tensor(rebased[name], name, tuple(tensor.shape), tensor.dtype)
    return rebased


def wire_schema(schema: Mapping[str, Described], form: Form | None) -> dict[str, dict[str, Part]]:
    """Return shape and dtype of each part, by its name, of each tensor."""
    return {name: _parts_of(name, each, form) for name, each in schema.items()}


def wire_bytes(schema: Mapping[str, Described], form: Form | None) -> int:
    """Return the bytes that weights take in a form, without the buckets' headers."""
    parts = (part for each in wire_schema(schema, form).values() for part in each.values())
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in parts)


def _parts_of(name: str, tensor: Described, form: Form | None) -> dict[str, Part]:
    shape = tuple(tensor.shape)
    if form is None or tensor.dtype != torch.float32:
        return {VALUES + name: (shape, tensor.dtype)}
    return {prefix + name: part for prefix, part in form.spec(shape).items()}


def _target(
    name: str,
    tensor: Tensor,
    base: Mapping[str, Tensor] | None,
    residual: Mapping[str, Tensor] | None,
) -> Tensor:
    """Return a new tensor of what is to be sent."""
    target = tensor - base[name] if base is not None else tensor.clone()
    if residual is not None:
        target.add_(residual[name])
    if not bool(torch.isfinite(target).all()):
        raise TrainingError(
            f"weight {name} moved so far that the difference is not finite; lower the learning rate"
        )
    return target
