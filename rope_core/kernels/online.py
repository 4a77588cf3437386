"""Softmax in one pass over tiles of keys: what both kernels of attention are made of.

Scores are in units of log 2, so that weights are powers of 2; in natural units where a mask is
added to them, whose lowest number times log2(e) would be infinite.
"""

import triton
import triton.language as tl

from rope_core.kernels.visible import seen_by_each

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def power(x, NATURAL: tl.constexpr):
    """Return the weight of a score less the greatest one."""
    return tl.exp2(x * LOG2E) if NATURAL else tl.exp2(x)


@triton.jit
def soft_capped(x, softcap, PRECISE: tl.constexpr):
    """Return softcap * tanh(x), for x of any size."""
    bent = 1.0 - 2.0 / (tl.exp2(x * (2 * LOG2E)) + 1.0)
    if PRECISE:
        # where x is small, the difference above has lost its digits
        y = x * x
        series = 0.021869488536155203 + y * (-0.008863235529902197 + y * 0.003592128036572481)
        series = 0.13333333333333333 + y * (-0.05396825396825397 + y * series)
        series = x * (1.0 + y * (-0.3333333333333333 + y * series))
        bent = tl.where(tl.abs(x) < 0.35, series, bent)
    return bent * softcap


@triton.jit
def offsets(key, exists, table_ptr, stride_page, stride_slot, PAGE_SIZE: tl.constexpr):
    """Return int64 `[N]`: where keys are, from the first one of their head."""
    if table_ptr is None:
        at = key.to(tl.int64) * stride_slot
    else:
        page = tl.load(table_ptr + key // PAGE_SIZE, mask=exists, other=0).to(tl.int64)
        at = page * stride_page + (key % PAGE_SIZE).to(tl.int64) * stride_slot
    return at


@triton.jit
def read(ptr, rows, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ALL: tl.constexpr):
    """Return `[N, BLOCK]`: WIDTH elements at each of `rows`, and 0 beyond and where none exists."""
    d = tl.arange(0, BLOCK)
    at = ptr + rows[:, None] + d[None, :]
    if ALL and WIDTH == BLOCK:
        x = tl.load(at)
    elif WIDTH == BLOCK:
        x = tl.load(at, mask=exists[:, None], other=0.0)
    else:
        x = tl.load(at, mask=exists[:, None] & (d < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def read_rows(
    row,  # [M]: query * GROUP + which head of the group
    num_rows,
    q_ptr,  # [Tq, H, HEAD_DIM]
    q_index_ptr,  # [Tq] int64, or None
    q_start,
    past,  # place of the first query
    kv_head,
    stride_q_token,
    stride_q_head,
    stride_mask_q,
    stride_mask_head,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return queries `[M, BLOCK_D]`, their places, and where they are in a mask.

    A query is turned where the scale is negative: -q times -scale.
    """
    exists = row < num_rows
    query = row // GROUP
    token = q_start + query
    head = kv_head * GROUP + row % GROUP
    at = token * stride_q_token + head * stride_q_head
    q = read(q_ptr, at, exists, HEAD_DIM, BLOCK_D, False)
    q = (q * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    if q_index_ptr is not None:
        place = tl.load(q_index_ptr + token, mask=exists, other=0)
    else:
        place = query + past
    mask_rows = tl.where(exists, query.to(tl.int64) * stride_mask_q, 0) + head * stride_mask_head
    return q, place, mask_rows


@triton.jit
def all_finite(acc):
    """Tell whether all of acc `[M, BLOCK_DV]` is finite."""
    finite = tl.abs(acc) < float("inf")
    return tl.min(tl.min(finite.to(tl.int32), 1), 0) > 0


@triton.jit
def empty(BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Return acc, top and total of no keys."""
    total = tl.zeros((BLOCK_M,), tl.float32)
    return tl.zeros((BLOCK_M, BLOCK_DV), tl.float32), total - float("inf"), total


@triton.jit
def accumulate(
    acc,  # [M, BLOCK_DV] float32: values so far, weighted
    top,  # [M] float32: greatest score so far, -inf where none
    total,  # [M] float32: sum of weights so far
    q,  # [M, BLOCK_D]
    place,  # [M] int32, or int64 where k_index_ptr is given
    mask_rows,  # [M] int64, from mask_ptr on
    first,  # number of the first tile of BLOCK_N keys
    num_tiles,
    left,  # after so many tiles ...
    skipped,  # ... so many are left out
    num_keys,
    k_ptr,  # the first key of this sequence and head; pages from the first one of this head
    v_ptr,
    table_ptr,  # [blocks] int32, or None
    k_index_ptr,  # [num_keys] int64, or None
    mask_ptr,  # the first query's and key's of this sequence, or None
    stride_k_page,
    stride_k_slot,
    stride_v_page,
    stride_v_slot,
    stride_mask,
    scale,  # not negative
    softcap,
    behind,
    ahead,
    chunk,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    EDGES: tl.constexpr,  # some keys of these tiles may be hidden
    SAFE: tl.constexpr,  # and what their values hold may not be finite
):
    """Return acc, top and total with the keys of some tiles more."""
    NATURAL: tl.constexpr = mask_ptr is not None
    unit = scale if NATURAL else scale * LOG2E
    for step in tl.range(0, num_tiles, num_stages=1 if SAFE else None):
        tile = first + step + tl.where(step < left, 0, skipped)
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        exists = key < num_keys
        k_rows = offsets(key, exists, table_ptr, stride_k_page, stride_k_slot, PAGE_SIZE)
        v_rows = offsets(key, exists, table_ptr, stride_v_page, stride_v_slot, PAGE_SIZE)
        k = read(k_ptr, k_rows, exists, HEAD_DIM, BLOCK_D, not EDGES)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")

        factor = unit
        if softcap is not None:
            bend = tl.minimum(scale / softcap, 3e38)
            s = soft_capped(s * bend, softcap, q.dtype == tl.float32)
            factor = 1.0 if NATURAL else LOG2E
        if EDGES:
            index = key
            if k_index_ptr is not None:
                index = tl.load(k_index_ptr + key, mask=exists, other=0)
            seen = seen_by_each(place, index, exists, behind, ahead, chunk)
            s = s * factor
            if mask_ptr is not None:
                at = mask_ptr + mask_rows[:, None] + key.to(tl.int64)[None, :] * stride_mask
                if mask_ptr.dtype.element_ty == tl.uint8:
                    seen = seen & (tl.load(at, mask=exists[None, :], other=0) != 0)
                else:
                    added = tl.load(at, mask=exists[None, :], other=0.0).to(tl.float32)
                    seen = seen & (added != -float("inf"))
                    s += added
            # not by adding -inf: a hidden score may be NaN
            s = tl.where(seen, s, -float("inf"))
            higher = tl.maximum(top, tl.max(s, 1))
            shift = tl.where(higher == -float("inf"), 0.0, higher)
            p = power(s - shift[:, None], NATURAL)
        else:
            higher = tl.maximum(top, tl.max(s, 1) * factor)
            shift = tl.where(higher == -float("inf"), 0.0, higher)
            p = power(s * factor - shift[:, None], NATURAL)

        kept = power(top - shift, NATURAL)
        top = higher
        total = total * kept + tl.sum(p, 1)
        acc = acc * kept[:, None]
        v = read(v_ptr, v_rows, exists, VALUE_DIM, BLOCK_DV, not EDGES)
        if SAFE:
            # 0 * NaN is NaN: what is not finite goes in apart, where seen; NaN is both infinities
            wide = v.to(tl.float32)
            finite = tl.abs(wide) < float("inf")
            sees = tl.where(seen, 1.0, 0.0).to(v.dtype)
            up = tl.where(finite | (wide == -float("inf")), 0.0, 1.0).to(v.dtype)
            down = tl.where(finite | (wide == float("inf")), 0.0, 1.0).to(v.dtype)
            acc += tl.where(tl.dot(sees, up) > 0, float("inf"), 0.0)
            acc += tl.where(tl.dot(sees, down) > 0, -float("inf"), 0.0)
            v = tl.where(finite, wide, 0.0).to(v.dtype)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
    return acc, top, total


@triton.jit
def finish(acc, top, total, sink, NATURAL: tl.constexpr):
    """Return out `[M, BLOCK_DV]` and lse `[M]`, float32; `sink` `[M]`, or None."""
    alone = total == 0.0
    if sink is not None:
        higher = tl.maximum(top, sink if NATURAL else sink * LOG2E)
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        kept = power(top - shift, NATURAL)
        total = total * kept + power((sink if NATURAL else sink * LOG2E) - shift, NATURAL)
        acc = acc * kept[:, None]
        top = higher
    out = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = (top + tl.log2(total) * LN2) if NATURAL else (top + tl.log2(total)) * LN2
    if sink is not None:
        # to the last bit
        lse = tl.where(alone, sink, lse)
    return out, lse
