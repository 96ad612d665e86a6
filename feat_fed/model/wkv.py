r"""The WKV operator of FEAT, in the two forms that exist (arXiv 2506.04956).

Shapes: B batch, T tokens, C channels; ``...`` any axes in between. ``w`` and ``u`` are
passed raw, as the network stores them, and are divided by T here.

:func:`wkv_paper` computes the published equation

.. math::
    y_t = \frac{\sum_{s \ne t} e^{-(|t-s|-1) w + k_s} v_s + e^{u + k_t} v_t}
               {\sum_{s \ne t} e^{-(|t-s|-1) w + k_s} + e^{u + k_t}}

in time and memory linear in T. :func:`wkv_published` computes what the released CUDA
kernel applies instead, with weights that depend on its launch constant; it exists for
released checkpoints.

On a GPU, :func:`wkv_paper` runs the kernels of :mod:`feat_fed.model.wkv_triton`; everywhere
else, and in float64, it runs the PyTorch form in this module.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A build without CUDA has no use for Triton, whose import takes a while.
_HAS_TRITON = torch.version.cuda is not None and find_spec("triton") is not None
if _HAS_TRITON:
    from feat_fed.model.wkv_triton import wkv_triton

MAX_ABS_RAW = 80.0
"""Bound of raw ``|w|`` and ``|u|``: float32 holds e^80 times any number of tokens."""

_KERNEL_CHUNKS = 16
"""The released kernel gives each of its threads ceil(T/16) tokens."""


def wkv_paper(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, *, token_axes: int = 1) -> Tensor:
    """Mix values over tokens by the paper's equation, with its exact analytic gradient.

    Parameters
    ----------
    k, v
        Keys and values, (B, T, ..., C); tokens are the second axis. Any finite key is safe.
    w_C, u_C
        Raw decay and bonus (C,), each within ±80.
    token_axes
        1, or 2 for (B, T1, T2, ..., C), whose tokens are T1 T2 in row-major order of the view:
        a frame's columns, say, are its transposed view.

    Returns
    -------
    Tensor
        Shaped as ``v``, in its type; computed in float32 or better.

    Raises
    ------
    ValueError
        If shapes disagree or, on the CPU, ``w`` or ``u`` is out of bounds. Elsewhere the
        bounds are not checked, because looking at a value would stall the device, nor in
        compiled code, which it would break in two.
    """
    _check(k, v, w_C, u_C, token_axes)
    if _HAS_TRITON and v.is_cuda and _precise(v.dtype) == torch.float32:
        return wkv_triton(k, v, w_C, u_C, token_axes=token_axes)
    return wkv_blocked(k, v, w_C, u_C, token_axes=token_axes)


def wkv_blocked(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, *, token_axes: int = 1) -> Tensor:
    """Compute :func:`wkv_paper` in PyTorch, on any device; arguments are not checked."""
    dtype, shape = _precise(v.dtype), v.shape
    k, v = k.flatten(1, token_axes), v.flatten(1, token_axes)
    T = k.shape[1]
    y: Tensor = _PaperWKV.apply(  # type: ignore[no-untyped-call]
        k.to(dtype), v.to(dtype), w_C.to(dtype) / T, u_C.to(dtype) / T
    )
    return y.to(v.dtype).view(shape)


def wkv_published(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, *, token_axes: int = 1) -> Tensor:
    """Mix values as the released CUDA kernel's forward pass does, with exact autograd.

    Arguments as for :func:`wkv_paper`. The weights are an explicit (T, T, C) matrix, so
    memory grows with T². Its denominators can cross zero for raw ``w`` around 20.
    """
    _check(k, v, w_C, u_C, token_axes)
    dtype, shape = _precise(v.dtype), v.shape
    k, v = k.flatten(1, token_axes), v.flatten(1, token_axes)
    T = k.shape[1]
    weights_TTC = published_weights(w_C.to(dtype) / T, u_C.to(dtype) / T, T)
    k, value = k.to(dtype), v.to(dtype)
    e = torch.exp(k - k.detach().amax(1, keepdim=True))
    num, den = torch.einsum("tsc,nbs...c->nbt...c", weights_TTC, torch.stack([e * value, e]))
    y: Tensor = num / den
    return y.to(v.dtype).reshape(shape)


def published_weights(w_C: Tensor, u_C: Tensor, num_tokens: int) -> Tensor:
    """Return D (T, T, C), the weights of ``e^{k_s}`` in the released kernel's forward pass.

    With L = ceil(T/16) and p the first token of t's chunk of L:
    ``e^{-w|t-s|}`` for s < p or s > t;
    ``e^{-w(t-s-1)} + [s>p] (1-e^w) e^{w(t-s)}`` for p <= s < t;
    ``e^u + [t>p] (1-e^w)`` for s = t. ``w`` and ``u`` are already divided by T.
    """
    chunk = math.ceil(num_tokens / _KERNEL_CHUNKS)
    token = torch.arange(num_tokens, device=w_C.device)
    t, s = token[:, None, None], token[None, :, None]
    first = t // chunk * chunk
    own_past, diagonal = (s >= first) & (s < t), t == s
    gap = (t - s).abs()
    decay = torch.exp(-w_C * torch.where(own_past, gap - 1, gap))
    # Outside its own chunk the growing term is switched off, so its exponent is zeroed too.
    growth = (1 - w_C.exp()) * torch.exp(w_C * torch.where(own_past, gap, 0))
    weights = torch.where(diagonal, u_C.exp(), decay)
    return weights + growth * ((own_past | diagonal) & (s > first))


class _PaperWKV(torch.autograd.Function):
    """The paper's operator; its weights are symmetric in t and s, so backward applies it again."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor) -> Tensor:  # noqa: ANN401
        e = torch.exp(k - k.amax(1, keepdim=True))
        # Numerator and denominator ride in one batch.
        x = torch.cat([e * v, e])
        past = _past(x, w_C)
        num, den = _all(x, past, w_C, u_C).chunk(2)
        inverse = den.reciprocal()
        y = num * inverse
        past_num, past_den = past.chunk(2)
        past_share = torch.addcmul(past_num, y, past_den, value=-1).mul_(inverse)
        # Gradients divide by den, which spans e^±80; relative to its least value both
        # factors below stay in range.
        least = den.amin(1, keepdim=True)
        ctx.save_for_backward(v, w_C, u_C, y, e / least, inverse.mul_(least), past_share)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
        """Return gradients of k, v, w and u.

        With g = gy/den and M the operator's weights: gv = e M(g) and
        gk = e (v M(g) - M(g y)). A gap t-s splits into t and s, so the gradient of w needs
        no more than what tokens get from their past, forwards (``past_share``) and
        backwards (``from_future``).
        """
        v, w_C, u_C, y, e, inverse, past_share = ctx.saved_tensors
        g = gy * inverse
        x = torch.cat([g, g * y])
        past = _past(x, w_C)
        mixed, mixed_y = _all(x, past, w_C, u_C).chunk(2)
        gv = e * mixed
        gk = torch.addcmul(mixed_y.neg(), v, mixed).mul_(e)
        own = (v - y).mul_(g).mul_(e)
        gu = _sum_but(own, -1) * u_C.exp()
        past_g, past_gy = past.chunk(2)
        from_past = torch.addcmul(past_gy.neg(), v, past_g).mul_(e)
        # X of the closed form gw = -sum_t t X_t - gu.
        moment = torch.addcmul(from_past, gy, past_share).mul_(2).sub_(gk)
        moment.addcmul_(own, u_C.exp(), value=2)
        T = v.shape[1]
        centred = torch.arange(T, device=v.device, dtype=v.dtype) - (T - 1) / 2
        gw = -(centred @ _sum_but(moment, 1, -1)) - gu
        return gk, gv, gw, gu


def _all(x: Tensor, past: Tensor, w_C: Tensor, u_C: Tensor) -> Tensor:
    """Return M(x)_t: what token t gets from its past, its future and itself."""
    return _future(x, w_C).add_(past).addcmul_(x, u_C.exp())


def _past(x: Tensor, w_C: Tensor) -> Tensor:
    """Return sum_{s<t} e^{-(t-s-1)w} x_s for every token t.

    Two levels of about sqrt(T) steps: a recurrence inside blocks, all blocks at once, then
    one from block to block. No factor exceeds e^{|w|T}, whatever T is.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    out[:, :1] = 0
    out[:, 1:] = x[:, :-1]
    T, block, step, carry = _levels(x, w_C)
    for i in range(1, block):
        here = out[:, i::block]
        here.addcmul_(out[:, i - 1 :: block][:, : here.shape[1]], step)
    for start in range(block, T, block):
        here = out[:, start : start + block]
        here.addcmul_(out[:, start - 1 : start], carry[: here.shape[1]])
    return out


def _future(x: Tensor, w_C: Tensor) -> Tensor:
    """Return sum_{s>t} e^{-(s-t-1)w} x_s for every token t: :func:`_past` in a mirror."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    out[:, -1:] = 0
    out[:, :-1] = x[:, 1:]
    T, block, step, carry = _levels(x, w_C)
    for i in reversed(range(block - 1)):
        after = out[:, i + 1 :: block]
        out[:, i::block][:, : after.shape[1]].addcmul_(after, step)
    for start in reversed(range(block, T, block)):
        out[:, start - block : start].addcmul_(out[:, start : start + 1], carry.flip(0))
    return out


def _levels(x: Tensor, w_C: Tensor) -> tuple[int, int, Tensor, Tensor]:
    """Return T, tokens a block, the decay of one step and of 1, 2, ... steps up to a block."""
    T = x.shape[1]
    block = math.isqrt(T - 1) + 1
    gaps = torch.arange(1, block + 1, device=x.device, dtype=x.dtype)
    return T, block, torch.exp(-w_C), torch.exp(-w_C * gaps.view(-1, *[1] * (x.ndim - 2)))


def _sum_but(x: Tensor, *kept: int) -> Tensor:
    """Sum over every axis that is not named."""
    keep = {axis % x.ndim for axis in kept}
    return x.sum([axis for axis in range(x.ndim) if axis not in keep])


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64 and float32 for everything else."""
    return torch.promote_types(dtype, torch.float32)


def _check(k: Tensor, v: Tensor, w_C: Tensor, u_C: Tensor, token_axes: int) -> None:
    if token_axes not in (1, 2):
        raise ValueError(f"token_axes is {token_axes}; tokens have 1 or 2 axes")
    if k.ndim < 2 + token_axes or k.shape != v.shape or 0 in k.shape:
        raise ValueError(
            f"k {tuple(k.shape)} and v {tuple(v.shape)} must have one shape (B, T, ..., C)"
        )
    for name, raw in (("w", w_C), ("u", u_C)):
        if raw.shape != k.shape[-1:]:
            raise ValueError(f"{name} {tuple(raw.shape)} must be ({k.shape[-1]},), one a channel")
        if raw.device.type != "cpu" or torch.compiler.is_compiling():
            continue
        if not bool((raw.detach().abs() <= MAX_ABS_RAW).all()):
            raise ValueError(
                f"raw {name} reaches {float(raw.detach().abs().max()):g}, beyond "
                f"±{MAX_ABS_RAW:g}: the weights have diverged"
            )
