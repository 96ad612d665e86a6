# Triton compiles these functions; Python's types do not describe its tensors and tuples.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
r"""Triton kernels of the paper's WKV operator; :mod:`feat_fed.model.wkv_triton` launches them.

Same technique as :func:`feat_fed.model.wkv.wkv_paper`: keys relative to their maximum over
the tokens, gradients relative to the least denominator, one backward formula because the
weights are symmetric in past and future.

A program owns one sequence and ``BLOCK_C`` channels. It holds a chunk of ``R * U`` tokens in
registers, as U tiles (R, BLOCK_C): row r has U consecutive tokens, one in each tile. A
recurrence walks the tiles for all rows at once; what a row receives from other rows is a sum
with explicit weights, so that rounding grows with U and not with T.

A sequence that is one chunk is read once and its results are written once. A longer one is
walked twice, first for the states at the borders of chunks.

Names: ``es`` e^(k - peak), ``evs`` e^(k - peak) v, ``gs`` gy least / den, ``hs`` gs y, each a
tuple of U tiles; ``w`` and ``bonus`` e^u with w and u divided by T; a state is (num, den) or
their like (g, h); ``first`` is a chunk's first token. What lies beyond the last token or
channel is masked; a tensor's strides are (batch, token, token, between, channel).
"""

import triton
import triton.language as tl

INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _channels(C, BLOCK_C: tl.constexpr):
    """Return this program's sequence, its channels, and which of them exist."""
    blocks = tl.cdiv(C, BLOCK_C)
    c = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    return (tl.program_id(0) // blocks).to(tl.int64), c, c < C


@triton.jit
def _decay_bonus(w, u, c, inside, T):
    decay = tl.load(w + c, mask=inside, other=0.0).to(tl.float32) / T
    return decay, tl.exp(tl.load(u + c, mask=inside, other=0.0).to(tl.float32) / T)[None, :]


@triton.jit
def _line(ptr, strides, sequence, between, c):
    """Return where token 0 of each channel lies, and the strides of tokens."""
    start = ptr + sequence // between * strides[0] + sequence % between * strides[3]
    return start + c.to(tl.int64) * strides[4], strides[1], strides[2]


@triton.jit
def _positions(first, i, U: tl.constexpr, R: tl.constexpr):
    return (first + tl.arange(0, R) * U + i)[:, None]


@triton.jit
def _addresses(line, positions, columns):
    wide = positions.to(tl.int64)
    return line[0][None, :] + wide // columns * line[1] + wide % columns * line[2]


@triton.jit
def _read(line, first, T, columns, inside, other, U: tl.constexpr, R: tl.constexpr):
    """Return the U tiles of a chunk in float32, ``other`` where there is nothing."""
    tiles = ()
    for i in tl.static_range(U):
        positions = _positions(first, i, U, R)
        mask = (positions < T) & inside[None, :]
        tile = tl.load(_addresses(line, positions, columns), mask=mask, other=other)
        tiles = tiles + (tile.to(tl.float32),)
    return tiles


@triton.jit
def _write(line, tile, i, first, T, columns, inside, U: tl.constexpr, R: tl.constexpr):
    positions = _positions(first, i, U, R)
    mask = (positions < T) & inside[None, :]
    tl.store(_addresses(line, positions, columns), tile, mask=mask)


@triton.jit
def _peak(ks, peak, inside, U: tl.constexpr):
    """Return the greatest key so far; channels that do not exist get a harmless 0."""
    for i in tl.static_range(U):
        peak = tl.maximum(peak, tl.max(ks[i], axis=0))
    return tl.where(inside, peak, 0.0)


@triton.jit
def _exponentials(ks, vs, peak, U: tl.constexpr):
    es, evs = (), ()
    for i in tl.static_range(U):
        e = tl.exp(ks[i] - peak[None, :])
        es, evs = es + (e,), evs + (e * vs[i],)
    return es, evs


@triton.jit
def _enter(xs, carry, w, T, FUTURE: tl.constexpr, U: tl.constexpr, R: tl.constexpr):
    """Carry sum_s e^(-w gap) x_s over a chunk from its first token or, FUTURE, its last.

    Takes what enters the chunk (BLOCK_C,); returns what enters each row (R, BLOCK_C) and what
    leaves the chunk. No gap exceeds T, so weights of rows beyond the end stay finite.
    """
    step = tl.exp(-w)[None, :]
    own = tl.zeros_like(xs[0])
    for i in tl.static_range(U):
        own = own * step + xs[U - 1 - i if FUTURE else i]
    row = tl.arange(0, R)
    before = R - 1 - row if FUTURE else row
    rows = carry[None, :] * tl.exp(-w[None, :] * tl.minimum(before * U, T)[:, None])
    if R > 1:
        hops = before[:, None] - before[None, :]
        gap = tl.minimum(tl.maximum(hops - 1, 0) * U, T)[:, :, None]
        received = tl.exp(-w[None, None, :] * gap) * own[None, :, :]
        rows += tl.sum(tl.where(hops[:, :, None] > 0, received, 0.0), axis=1)
    trail = tl.exp(-w[None, :] * tl.minimum((R - 1 - before) * U, T)[:, None])
    return rows, carry * tl.exp(-w * tl.minimum(R * U, T)) + tl.sum(own * trail, axis=0)


@triton.jit
def _average(es, evs, past, future, w, bonus, T, U: tl.constexpr, R: tl.constexpr):
    """Return y, its denominators, its leanings, and the state that leaves for the future.

    A leaning is what the past adds to y minus what the future adds, both relative to y.
    """
    num, next_num = _enter(evs, past[0], w, T, False, U, R)
    den, next_den = _enter(es, past[1], w, T, False, U, R)
    late_num, _ = _enter(evs, future[0], w, T, True, U, R)
    late_den, _ = _enter(es, future[1], w, T, True, U, R)
    step = tl.exp(-w)[None, :]
    late_nums, late_dens = (), ()
    for i in tl.static_range(U):
        late_nums, late_dens = (late_num,) + late_nums, (late_den,) + late_dens
        late_num = late_num * step + evs[U - 1 - i]
        late_den = late_den * step + es[U - 1 - i]
    ys, dens, leanings = (), (), ()
    for i in tl.static_range(U):
        whole = den + late_dens[i] + bonus * es[i]
        y = (num + late_nums[i] + bonus * evs[i]) / whole
        leaning = (num - late_nums[i] - y * (den - late_dens[i])) / whole
        ys, dens, leanings = ys + (y,), dens + (whole,), leanings + (leaning,)
        num = num * step + evs[i]
        den = den * step + es[i]
    return ys, dens, leanings, (next_num, next_den)


@triton.jit
def _least(dens, least, first, T, U: tl.constexpr, R: tl.constexpr):
    """Return the least denominator so far."""
    for i in tl.static_range(U):
        den = tl.where(_positions(first, i, U, R) < T, dens[i], INFINITY)
        least = tl.minimum(least, tl.min(den, axis=0))
    return least


@triton.jit
def _future(kept, chunk, peak, C, inside):
    """Return the state that a chunk receives from its future, relative to ``peak``."""
    num = tl.load(kept + 3 * chunk * C, mask=inside, other=0.0)
    den = tl.load(kept + (3 * chunk + 1) * C, mask=inside, other=0.0)
    shrink = tl.exp(tl.load(kept + (3 * chunk + 2) * C, mask=inside, other=0.0) - peak)
    return num * shrink, den * shrink


@triton.jit
def forward_kernel(
    k, v, w, u, y, kept, k_strides, v_strides, y_strides, T, columns, between, C,
    CHUNKS: tl.constexpr, U: tl.constexpr, R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write y and, if there are several chunks, ``kept`` (sequences, 3 CHUNKS + 1, C).

    Kept of a chunk: the state that comes from its future, and the greatest key from here to
    the end, to which that state is relative. Last, the sequence's least denominator.
    """
    sequence, c, inside = _channels(C, BLOCK_C)
    decay, bonus = _decay_bonus(w, u, c, inside, T)
    k = _line(k, k_strides, sequence, between, c)
    v = _line(v, v_strides, sequence, between, c)
    y = _line(y, y_strides, sequence, between, c)
    peak = tl.full((BLOCK_C,), -INFINITY, tl.float32)
    zero = tl.zeros((BLOCK_C,), tl.float32)
    if CHUNKS == 1:
        ks = _read(k, 0, T, columns, inside, -INFINITY, U, R)
        vs = _read(v, 0, T, columns, inside, 0.0, U, R)
        es, evs = _exponentials(ks, vs, _peak(ks, peak, inside, U), U)
        ys, _, _, _ = _average(es, evs, (zero, zero), (zero, zero), decay, bonus, T, U, R)
        for i in tl.static_range(U):
            _write(y, ys[i], i, 0, T, columns, inside, U, R)
    else:
        kept += sequence * (3 * CHUNKS + 1) * C + c
        num, den = zero, zero
        for step in range(CHUNKS):
            chunk = CHUNKS - 1 - step
            first = chunk * U * R
            ks = _read(k, first, T, columns, inside, -INFINITY, U, R)
            vs = _read(v, first, T, columns, inside, 0.0, U, R)
            later_peak = peak
            peak = _peak(ks, peak, inside, U)
            shrink = tl.exp(later_peak - peak)
            num, den = num * shrink, den * shrink
            tl.store(kept + 3 * chunk * C, num, mask=inside)
            tl.store(kept + (3 * chunk + 1) * C, den, mask=inside)
            tl.store(kept + (3 * chunk + 2) * C, peak, mask=inside)
            es, evs = _exponentials(ks, vs, peak, U)
            _, num = _enter(evs, num, decay, T, True, U, R)
            _, den = _enter(es, den, decay, T, True, U, R)
        num, den = zero, zero
        least = tl.full((BLOCK_C,), INFINITY, tl.float32)
        for chunk in range(CHUNKS):
            first = chunk * U * R
            ks = _read(k, first, T, columns, inside, -INFINITY, U, R)
            vs = _read(v, first, T, columns, inside, 0.0, U, R)
            es, evs = _exponentials(ks, vs, peak, U)
            future = _future(kept, chunk, peak, C, inside)
            ys, dens, _, past = _average(es, evs, (num, den), future, decay, bonus, T, U, R)
            num, den = past[0], past[1]
            least = _least(dens, least, first, T, U, R)
            for i in tl.static_range(U):
                _write(y, ys[i], i, first, T, columns, inside, U, R)
        tl.store(kept + 3 * CHUNKS * C, least, mask=inside)


@triton.jit
def _pulls(gys, ys, dens, least, first, T, U: tl.constexpr, R: tl.constexpr):
    gs, hs = (), ()
    for i in tl.static_range(U):
        exists = _positions(first, i, U, R) < T
        g = tl.where(exists, gys[i] * (least[None, :] / dens[i]), 0.0)
        gs, hs = gs + (g,), hs + (tl.where(exists, g * ys[i], 0.0),)
    return gs, hs


@triton.jit
def _gradients(
    gk, gv, es, vs, gys, leanings, gs, hs, past, future, least, w, bonus, first, T, columns, inside,
    U: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Write a chunk's gk and gv; return its part of gw, of gu, and the state left for the past.

    With M the operator's weights, gv = e M(g) and gk = e (v M(g) - M(h)). A gap t - s splits
    into t and s, so gw is a first moment over positions of what tokens give and receive.
    """
    g, _ = _enter(gs, past[0], w, T, False, U, R)
    h, _ = _enter(hs, past[1], w, T, False, U, R)
    step = tl.exp(-w)[None, :]
    centre = (T - 1) * 0.5
    gw, gu = tl.zeros_like(g), tl.zeros_like(g)
    gks, gvs = (), ()
    for i in tl.static_range(U):
        e = es[i] / least[None, :]
        own = bonus * e * (vs[i] * gs[i] - hs[i])
        from_past = e * (vs[i] * g - h)
        gks, gvs = gks + (from_past + own,), gvs + (e * (g + bonus * gs[i]),)
        positions = _positions(first, i, U, R)
        moment = (positions - centre) * (from_past + gys[i] * leanings[i])
        gw -= tl.where(positions < T, moment, 0.0)
        gu += own
        g = g * step + gs[i]
        h = h * step + hs[i]
    g, next_g = _enter(gs, future[0], w, T, True, U, R)
    h, next_h = _enter(hs, future[1], w, T, True, U, R)
    for j in tl.static_range(U):
        e = es[U - 1 - j] / least[None, :]
        from_future = e * (vs[U - 1 - j] * g - h)
        gw += (_positions(first, U - 1 - j, U, R) - centre) * from_future
        gk_tile, gv_tile = gks[U - 1 - j] + from_future, gvs[U - 1 - j] + e * g
        _write(gk, gk_tile, U - 1 - j, first, T, columns, inside, U, R)
        _write(gv, gv_tile, U - 1 - j, first, T, columns, inside, U, R)
        g = g * step + gs[U - 1 - j]
        h = h * step + hs[U - 1 - j]
    return tl.sum(gw - gu, axis=0), tl.sum(gu, axis=0), (next_g, next_h)


@triton.jit
def backward_kernel(
    k, v, w, u, gy, kept, gk, gv, shared, scratch,
    k_strides, v_strides, gy_strides, gk_strides, gv_strides, T, columns, between, C,
    CHUNKS: tl.constexpr, U: tl.constexpr, R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write gk, gv and each sequence's part of gw and gu, ``shared`` (sequences, 2, C).

    ``scratch`` (sequences, 4 CHUNKS, C): num, den, g and h that enter a chunk from its past.
    """
    sequence, c, inside = _channels(C, BLOCK_C)
    decay, bonus = _decay_bonus(w, u, c, inside, T)
    k = _line(k, k_strides, sequence, between, c)
    v = _line(v, v_strides, sequence, between, c)
    gy = _line(gy, gy_strides, sequence, between, c)
    gk = _line(gk, gk_strides, sequence, between, c)
    gv = _line(gv, gv_strides, sequence, between, c)
    zero = tl.zeros((BLOCK_C,), tl.float32)
    if CHUNKS == 1:
        ks = _read(k, 0, T, columns, inside, -INFINITY, U, R)
        vs = _read(v, 0, T, columns, inside, 0.0, U, R)
        gys = _read(gy, 0, T, columns, inside, 0.0, U, R)
        peak = _peak(ks, tl.full((BLOCK_C,), -INFINITY, tl.float32), inside, U)
        es, evs = _exponentials(ks, vs, peak, U)
        ys, dens, leanings, _ = _average(
            es, evs, (zero, zero), (zero, zero), decay, bonus, T, U, R
        )  # fmt: skip
        least = _least(dens, tl.full((BLOCK_C,), INFINITY, tl.float32), 0, T, U, R)
        gs, hs = _pulls(gys, ys, dens, least, 0, T, U, R)
        gw, gu, _ = _gradients(
            gk, gv, es, vs, gys, leanings, gs, hs, (zero, zero), (zero, zero),
            least, decay, bonus, 0, T, columns, inside, U, R,
        )  # fmt: skip
    else:
        kept += sequence * (3 * CHUNKS + 1) * C + c
        scratch += sequence * 4 * CHUNKS * C + c
        peak = tl.load(kept + 2 * C, mask=inside, other=0.0)
        least = tl.load(kept + 3 * CHUNKS * C, mask=inside, other=1.0)
        num, den, g, h = zero, zero, zero, zero
        for chunk in range(CHUNKS):
            first = chunk * U * R
            tl.store(scratch + 4 * chunk * C, num, mask=inside)
            tl.store(scratch + (4 * chunk + 1) * C, den, mask=inside)
            tl.store(scratch + (4 * chunk + 2) * C, g, mask=inside)
            tl.store(scratch + (4 * chunk + 3) * C, h, mask=inside)
            ks = _read(k, first, T, columns, inside, -INFINITY, U, R)
            vs = _read(v, first, T, columns, inside, 0.0, U, R)
            gys = _read(gy, first, T, columns, inside, 0.0, U, R)
            es, evs = _exponentials(ks, vs, peak, U)
            future = _future(kept, chunk, peak, C, inside)
            ys, dens, _, past = _average(es, evs, (num, den), future, decay, bonus, T, U, R)
            num, den = past[0], past[1]
            gs, hs = _pulls(gys, ys, dens, least, first, T, U, R)
            _, g = _enter(gs, g, decay, T, False, U, R)
            _, h = _enter(hs, h, decay, T, False, U, R)
        gw, gu, g, h = zero, zero, zero, zero
        for step in range(CHUNKS):
            chunk = CHUNKS - 1 - step
            first = chunk * U * R
            num = tl.load(scratch + 4 * chunk * C, mask=inside, other=0.0)
            den = tl.load(scratch + (4 * chunk + 1) * C, mask=inside, other=0.0)
            past_g = tl.load(scratch + (4 * chunk + 2) * C, mask=inside, other=0.0)
            past_h = tl.load(scratch + (4 * chunk + 3) * C, mask=inside, other=0.0)
            ks = _read(k, first, T, columns, inside, -INFINITY, U, R)
            vs = _read(v, first, T, columns, inside, 0.0, U, R)
            gys = _read(gy, first, T, columns, inside, 0.0, U, R)
            es, evs = _exponentials(ks, vs, peak, U)
            future = _future(kept, chunk, peak, C, inside)
            ys, dens, leanings, _ = _average(es, evs, (num, den), future, decay, bonus, T, U, R)
            gs, hs = _pulls(gys, ys, dens, least, first, T, U, R)
            own_gw, own_gu, left = _gradients(
                gk, gv, es, vs, gys, leanings, gs, hs, (past_g, past_h), (g, h),
                least, decay, bonus, first, T, columns, inside, U, R,
            )  # fmt: skip
            gw, gu, g, h = gw + own_gw, gu + own_gu, left[0], left[1]
    shared += sequence * 2 * C + c
    tl.store(shared, gw / T, mask=inside)
    tl.store(shared + C, gu / T, mask=inside)
