"""Online softmax over tiles of keys: the functions that the attention kernels share.

Names follow FlashAttention's papers: acc is the weighted sum of values, m_i the greatest score and
l_i the sum of weights of each row so far. Scores are multiplied by log2(e), so that weights are
powers of 2. With a mask they stay natural: the lowest number of a mask times log2(e) would be
infinite.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

SAFE_ROWS = tl.constexpr(16)
"""Rows of a tile when values that are not finite are attended to again."""

SAFE_KEYS = tl.constexpr(16)
"""Keys of such a tile."""


@triton.jit
def exp_score(x, natural):
    """Return e**x of natural scores, 2**x of scores times log2(e)."""
    return tl.exp2(x * tl.where(natural, LOG2E, 1.0))


@triton.jit
def apply_softcap(x, softcap, PRECISE: tl.constexpr):
    """Return softcap * tanh(x), for x of any size."""
    tanh = 1.0 - 2.0 / (tl.exp2(x * (2 * LOG2E)) + 1.0)
    if PRECISE:
        # where x is small, the difference above has lost its digits
        y = x * x
        series = 0.021869488536155203 + y * (-0.008863235529902197 + y * 0.003592128036572481)
        series = 0.13333333333333333 + y * (-0.05396825396825397 + y * series)
        series = x * (1.0 + y * (-0.3333333333333333 + y * series))
        tanh = tl.where(tl.abs(x) < 0.35, series, tanh)
    return tanh * softcap


@triton.jit
def key_offsets(
    key,
    exists,
    table_ptr,
    stride_page,
    stride_slot,
    PAGE_SIZE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Return int64 `[N]`: the offset of each key, in elements, from the first one of its head."""
    if table_ptr is None:
        at = key.to(tl.int64) * stride_slot
    else:
        page = tl.load(table_ptr + key // PAGE_SIZE, mask=exists, other=0).to(tl.int64)
        at = page * stride_page + (key % PAGE_SIZE).to(tl.int64) * stride_slot
    return at * UNIT


@triton.jit
def load_rows(ptr, offsets, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ALL: tl.constexpr):
    """Return `[N, BLOCK]`: WIDTH elements from each offset on; 0 beyond, and in missing rows."""
    d = tl.arange(0, BLOCK)
    at = ptr + offsets[:, None] + d[None, :]
    if ALL and WIDTH == BLOCK:
        x = tl.load(at)
    elif WIDTH == BLOCK:
        x = tl.load(at, mask=exists[:, None], other=0.0)
    else:
        x = tl.load(at, mask=exists[:, None] & (d < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def load_queries(
    row,  # [M]: query * group + head of the group
    num_rows,
    q_ptr,  # [Tq, H, HEAD_DIM]
    q_index_ptr,  # [Tq] int64, or None
    q_start,
    context_len,  # position of the first query
    kv_head,
    group,
    stride_q_token,  # in units of UNIT elements
    stride_q_head,
    stride_mask_q,
    stride_mask_head,
    scale,
    UNIT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Return queries `[M, BLOCK_D]`, their positions `[M]`, and int64 offsets in a mask `[M]`.

    With a negative scale queries are negated, as scores are multiplied by its absolute value.
    """
    exists = row < num_rows
    query = row // group
    token = q_start + query
    head = kv_head * group + row % group
    at = (token * stride_q_token + head * stride_q_head) * UNIT
    q = load_rows(q_ptr, at, exists, HEAD_DIM, BLOCK_D, False)
    q = (q * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    if q_index_ptr is not None:
        position = tl.load(q_index_ptr + token, mask=exists, other=0)
    else:
        position = query + context_len
    mask_rows = tl.where(exists, query.to(tl.int64) * stride_mask_q, 0) + head * stride_mask_head
    return q, position, mask_rows


@triton.jit
def all_finite(acc):
    """Return whether all of acc `[M, BLOCK_DV]` is finite, a scalar."""
    finite = tl.abs(acc) < float("inf")
    # one reduction over both axes: two in a row do not compile for a B200's tensor memory
    return tl.min(finite.to(tl.int32)) > 0


@triton.jit
def init_state(BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr):
    """Return acc `[BLOCK_M, BLOCK_DV]`, m_i and l_i `[BLOCK_M]` before any key."""
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    return tl.zeros((BLOCK_M, BLOCK_DV), tl.float32), l_i - float("inf"), l_i


@triton.jit
def accumulate(
    acc,  # [M, BLOCK_DV] float32
    m_i,  # [M] float32, -inf where no key was seen
    l_i,  # [M] float32
    q,  # [M, BLOCK_D]
    first_key,  # [M]: the first and the last key that each row sees
    last_key,
    mask_rows,  # [M] int64, from mask_ptr on
    first,  # number of the first tile of BLOCK_N keys
    num_tiles,
    gap_start,  # after so many tiles ...
    gap_tiles,  # ... so many are left out
    num_keys,
    k_ptr,  # the first key of this sequence and head; pages from the first one of this head
    v_ptr,
    table_ptr,  # [blocks] int32, or None
    k_index_ptr,  # [num_keys] int64, or None
    mask_ptr,  # the first query's and key's of this sequence, or None
    stride_k_page,  # in units of UNIT elements
    stride_k_slot,
    stride_v_page,
    stride_v_slot,
    scale,  # not negative
    softcap,
    UNIT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    EDGES: tl.constexpr,  # some keys of these tiles may be hidden
    SAFE: tl.constexpr,  # given EDGES: values may be NaN or infinite
):
    """Return acc, m_i and l_i with the keys of `num_tiles` more tiles."""
    NATURAL: tl.constexpr = mask_ptr is not None
    qk_scale = scale if NATURAL else scale * LOG2E
    for step in tl.range(0, num_tiles, num_stages=1 if SAFE else None):
        tile = first + step + tl.where(step < gap_start, 0, gap_tiles)
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        exists = key < num_keys
        k_rows = key_offsets(key, exists, table_ptr, stride_k_page, stride_k_slot, PAGE_SIZE, UNIT)
        v_rows = key_offsets(key, exists, table_ptr, stride_v_page, stride_v_slot, PAGE_SIZE, UNIT)
        # [N, BLOCK_D]
        k = load_rows(k_ptr, k_rows, exists, HEAD_DIM, BLOCK_D, not EDGES)
        # [M, N]
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)

        factor = qk_scale
        if SOFTCAP:
            per_cap = tl.minimum(scale / softcap, 3e38)
            s = apply_softcap(s * per_cap, softcap, q.dtype == tl.float32)
            factor = 1.0 if NATURAL else LOG2E
        if EDGES:
            if k_index_ptr is not None:
                index = tl.load(k_index_ptr + key, mask=exists, other=0)
                seen = (first_key[:, None] <= index[None, :]) & (
                    index[None, :] <= last_key[:, None]
                )
                seen = seen & exists[None, :]
            else:
                seen = (first_key[:, None] <= key[None, :]) & (key[None, :] <= last_key[:, None])
            s = s * factor
            if mask_ptr is not None:
                at = mask_ptr + mask_rows[:, None] + key[None, :]
                if mask_ptr.dtype.element_ty == tl.uint8:
                    seen = seen & (tl.load(at, mask=exists[None, :], other=0) != 0)
                else:
                    added = tl.load(at, mask=exists[None, :], other=0.0)
                    seen = seen & (added != -float("inf"))
                    s += added
            # not by adding -inf: a hidden score may be NaN
            s = tl.where(seen, s, -float("inf"))
            m_new = tl.maximum(m_i, tl.max(s, 1))
            shift = tl.where(m_new == -float("inf"), 0.0, m_new)
            p = exp_score(s - shift[:, None], NATURAL)
        else:
            m_new = tl.maximum(m_i, tl.max(s, 1) * factor)
            shift = tl.where(m_new == -float("inf"), 0.0, m_new)
            p = exp_score(s * factor - shift[:, None], NATURAL)

        alpha = exp_score(m_i - shift, NATURAL)
        m_i = m_new
        l_i = l_i * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        # [N, BLOCK_DV]
        v = load_rows(v_ptr, v_rows, exists, VALUE_DIM, BLOCK_DV, not EDGES)
        if SAFE:
            # 0 * NaN is NaN, so values that are not finite are added only to rows that see them;
            # NaN counts as inf and as -inf, whose sum is NaN
            v_float = v.to(tl.float32)
            finite = tl.abs(v_float) < float("inf")
            visible = tl.where(seen, 1.0, 0.0).to(v.dtype)
            has_inf = tl.where(finite | (v_float == -float("inf")), 0.0, 1.0).to(v.dtype)
            has_neg_inf = tl.where(finite | (v_float == float("inf")), 0.0, 1.0).to(v.dtype)
            acc += tl.where(tl.dot(visible, has_inf) > 0, float("inf"), 0.0)
            acc += tl.where(tl.dot(visible, has_neg_inf) > 0, -float("inf"), 0.0)
            v = tl.where(finite, v_float, 0.0).to(v.dtype)
        # [M, BLOCK_DV]
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, m_i, l_i


@triton.jit
def store_output(
    acc,  # [M, BLOCK_DV] float32
    m_i,  # [M] float32
    l_i,  # [M] float32
    row,  # [M]: query * group + head of the group
    num_rows,
    out_ptr,  # [Tq, H, VALUE_DIM]
    lse_ptr,  # [Tq, H] float32, contiguous
    sinks_ptr,  # [H] float32; not read where has_sinks is 0
    has_sinks,
    natural,  # whether scores are natural; see above
    q_start,
    kv_head,
    num_kv_heads,
    group,
    stride_out_token,  # in units of UNIT elements
    stride_out_head,
    UNIT: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Add the sinks to the softmax, and write out and lse of the rows."""
    exists = row < num_rows
    token = q_start + row // group
    head = kv_head * group + row % group
    # without sinks, -inf: it changes no bit
    sink = tl.load(sinks_ptr + head, mask=exists & (has_sinks != 0), other=-float("inf"))
    score = sink * tl.where(natural, 1.0, LOG2E)
    sees_none = l_i == 0.0
    m_new = tl.maximum(m_i, score)
    shift = tl.where(m_new == -float("inf"), 0.0, m_new)
    alpha = exp_score(m_i - shift, natural)
    l_i = l_i * alpha + exp_score(score - shift, natural)
    acc = acc * alpha[:, None]
    out = acc / tl.where(l_i == 0.0, 1.0, l_i)[:, None]
    log2_l = tl.log2(l_i)
    lse = tl.where(natural, m_new + log2_l * LN2, (m_new + log2_l) * LN2)
    lse = tl.where(sees_none, sink, lse)  # exactly, not by way of log2

    d = tl.arange(0, BLOCK_DV)
    out_rows = (token * stride_out_token + head * stride_out_head) * UNIT
    at = out_ptr + out_rows[:, None] + d[None, :]
    in_out = exists[:, None] & (d < VALUE_DIM)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=in_out)
    tl.store(lse_ptr + token * num_kv_heads * group + head, lse, mask=exists)
