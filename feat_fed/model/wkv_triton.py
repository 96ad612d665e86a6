"""The paper's WKV operator on a GPU: one Triton kernel a direction, traced by torch.compile.

A sequence of up to 128 tokens is one chunk, held in registers: keys, values and incoming
gradients are read once, results are written once, and the backward pass needs nothing but the
inputs. Longer sequences keep one state a chunk and are read twice in each direction. Tensors
stay where they lie: kernels take strides. Half precision is read and written as such; all
that is between is float32.

The kernels are tested in Triton's interpreter and compiled for sm_80 and sm_90. They have
not been run or timed on a real GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from feat_fed.model.wkv_kernels import backward_kernel, forward_kernel

_MAX_STEPS = 8
"""Tokens a row; each is a handful of registers of every thread."""

_MAX_ROWS = 16
"""Rows a chunk; what they exchange costs rows² a channel."""

_THREADS = 128
_LEAST_CHANNELS = 16
"""Channels a program: 16 halves fill a 32-byte sector of memory."""


class Cut(NamedTuple):
    """How kernels cut sequences: chunks of R rows of U tokens, BLOCK_C channels a program."""

    CHUNKS: int
    U: int
    R: int
    BLOCK_C: int
    num_warps: int


def cut(num_tokens: int, channels: int) -> Cut:
    """Return the cut for sequences of ``num_tokens``."""
    steps = min(_power_of_2(num_tokens), _MAX_STEPS)
    rows = min(_power_of_2(-(-num_tokens // steps)), _MAX_ROWS)
    block = min(_power_of_2(channels), max(_THREADS // rows, _LEAST_CHANNELS))
    chunks = -(-num_tokens // (steps * rows))
    return Cut(chunks, steps, rows, block, num_warps=max(rows * block // 32, 1))


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()


@torch.library.custom_op("feat_fed::wkv", mutates_args=())
def _wkv(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return y, in the shape of v (B, T1, T2, N, C), and the states that backward needs."""
    B, T1, T2, N, C = v.shape
    plan = cut(T1 * T2, C)
    y, kept = torch.empty_like(v), _kept(v)
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        forward_kernel[(B * N * triton.cdiv(C, plan.BLOCK_C),)](
            k, v, w_C, u_C, y, kept, k.stride(), v.stride(), y.stride(),
            T1 * T2, T2, N, C, **plan._asdict(), enable_fp_fusion=True,
        )  # fmt: skip
    return y, kept


@_wkv.register_fake
def _(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v), _kept(v)


@torch.library.custom_op("feat_fed::wkv_backward", mutates_args=())
def _wkv_backward(
    k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, kept: Tensor, gy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gk, gv and what each sequence adds to gw and gu, (B N, 2, C)."""
    B, T1, T2, N, C = v.shape
    plan = cut(T1 * T2, C)
    gk, gv, shared = torch.empty_like(k), torch.empty_like(v), _per_sequence(v, 2)
    scratch = _per_sequence(v, 4 * plan.CHUNKS if plan.CHUNKS > 1 else 0)
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        backward_kernel[(B * N * triton.cdiv(C, plan.BLOCK_C),)](
            k, v, w_C, u_C, gy, kept, gk, gv, shared, scratch, k.stride(), v.stride(), gy.stride(),
            gk.stride(), gv.stride(), T1 * T2, T2, N, C, **plan._asdict(), enable_fp_fusion=True,
        )  # fmt: skip
    return gk, gv, shared


@_wkv_backward.register_fake
def _(
    k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, kept: Tensor, gy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(k), torch.empty_like(v), _per_sequence(v, 2)


def _kept(v: Tensor) -> Tensor:
    # Kernels are compiled for one number of tokens, so a traced size becomes a fixed one.
    chunks = cut(int(v.shape[1] * v.shape[2]), int(v.shape[4])).CHUNKS
    return _per_sequence(v, 3 * chunks + 1 if chunks > 1 else 0)


def _per_sequence(v: Tensor, rows: int) -> Tensor:
    B, _, _, N, C = v.shape
    return v.new_empty(B * N, rows, C, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx: Any, gy: Tensor, _: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
    k, v, w_C, u_C, kept = ctx.saved_tensors
    gk, gv, shared = _wkv_backward(k, v, w_C, u_C, kept, gy)
    gw, gu = shared.sum(0)
    return gk, gv, gw.to(w_C.dtype), gu.to(u_C.dtype)


_wkv.register_autograd(_differentiate, setup_context=_save)


def wkv_triton(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, *, token_axes: int = 1) -> Tensor:
    """Mix values over tokens as :func:`feat_fed.model.wkv.wkv_paper`, which checks arguments.

    Parameters
    ----------
    k, v
        Keys and values (B, T, ..., C) in float32, float16 or bfloat16, with any strides.
    w_C, u_C
        Raw decay and bonus (C,), each within ±80.
    token_axes
        1, or 2 for (B, T1, T2, ..., C): T1 T2 tokens, row-major in the view.

    Returns
    -------
    Tensor
        Of the shape and type of ``v``, with its order of axes in memory.
    """
    rows, columns = (*v.shape[1 : 1 + token_axes], 1)[:2]
    shape = (v.shape[0], rows, columns, -1, v.shape[-1])
    y: Tensor = _wkv(k.reshape(shape), v.reshape(shape), w_C.contiguous(), u_C.contiguous())[0]
    return y.view(v.shape)
