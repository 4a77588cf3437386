"""Online softmax over tiles of keys, as in FlashAttention-2 (Dao, 2023).

`acc` is the weighted sum of values, `m_i` the greatest score and `l_i` the sum of weights of each
row so far. Scores are multiplied by log2(e), so that weights are powers of 2. With a mask scores
are natural: the lowest float32 in a mask times log2(e) would be infinite.
"""

import triton
import triton.language as tl

from rope_core.kernels.attention_inputs import load_queries
from rope_core.kernels.masking import row_key_range
from rope_core.kernels.paged_kv import key_value_rows, load_rows

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

NONFINITE_BLOCK = tl.constexpr(16)
"""BLOCK_M and BLOCK_N of the second pass, which handles values that are not finite. The tile is so
small that this pass takes no more registers than the first."""


@triton.jit
def exp_score(x, natural):
    """Return e**x of natural scores, 2**x of scores times log2(e)."""
    return tl.exp2(x * tl.where(natural, LOG2E, 1.0))


@triton.jit
def apply_softcap(x, softcap, PRECISE: tl.constexpr):
    """Return softcap * tanh(x), for x of any size."""
    tanh = 1.0 - 2.0 / (tl.exp2(x * (2 * LOG2E)) + 1.0)
    if PRECISE:
        # for small x the difference above has lost its digits: use the Taylor series
        y = x * x
        series = 0.021869488536155203 + y * (-0.008863235529902197 + y * 0.003592128036572481)
        series = 0.13333333333333333 + y * (-0.05396825396825397 + y * series)
        series = x * (1.0 + y * (-0.3333333333333333 + y * series))
        tanh = tl.where(tl.abs(x) < 0.35, series, tanh)
    return tanh * softcap


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
def attend_rows(
    inputs,
    seq,
    row,  # [BLOCK_M] int32
    first_tile,
    num_tiles,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    NONFINITE: tl.constexpr,
):
    """Return acc, m_i and l_i of rows over `num_tiles` tiles of BLOCK_N keys."""
    q, position, mask_row = load_queries(inputs, seq, row)
    first_key, last_key = row_key_range(position, seq, inputs)
    # fmt: off
    acc, m_i, l_i = init_state(BLOCK_M, inputs.BLOCK_DV)
    return accumulate(
        acc, m_i, l_i, inputs, seq, q, first_key, last_key, mask_row,
        first_tile, num_tiles, num_tiles, 0, BLOCK_N, PRECISION, MASKED=True, NONFINITE=NONFINITE,
    )
    # fmt: on


@triton.jit
def attend_rows_nonfinite(
    inputs, seq, row, first_tile, num_tiles, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr
):
    """Return acc, m_i and l_i of NONFINITE_BLOCK rows where a value may be NaN or infinite.

    `first_tile` and `num_tiles` count tiles of BLOCK_N keys.
    """
    ratio: tl.constexpr = BLOCK_N // NONFINITE_BLOCK
    # fmt: off
    return attend_rows(
        inputs, seq, row, first_tile * ratio, num_tiles * ratio,
        NONFINITE_BLOCK, NONFINITE_BLOCK, PRECISION, NONFINITE=True,
    )
    # fmt: on


@triton.jit
def accumulate(
    acc,  # [M, BLOCK_DV] float32
    m_i,  # [M] float32, -inf where no key was seen
    l_i,  # [M] float32
    inputs,
    seq,
    q,  # [M, BLOCK_D]
    first_key,  # [M], the first and the last key that each row sees
    last_key,
    mask_row,  # [M] int64, offsets from mask_ptr
    first_tile,
    num_tiles,
    skip_after,  # after this many tiles ...
    num_skipped,  # ... leave out this many
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,  # some keys of these tiles may be hidden
    NONFINITE: tl.constexpr,  # values may be NaN or infinite; requires MASKED
):
    """Return acc, m_i and l_i after `num_tiles` more tiles of BLOCK_N keys."""
    NATURAL: tl.constexpr = inputs.mask_ptr is not None
    scale = tl.abs(inputs.scale)
    qk_scale = scale if NATURAL else scale * LOG2E
    for step in tl.range(0, num_tiles, num_stages=1 if NONFINITE else None):
        tile = first_tile + step + tl.where(step < skip_after, 0, num_skipped)
        # [N]
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        exists = key < seq.num_keys
        k_row, v_row = key_value_rows(inputs, seq, key, exists)
        # [N, BLOCK_D]
        k = load_rows(k_row, exists, inputs.HEAD_DIM, inputs.BLOCK_D, not MASKED)
        # [M, N]
        qk = tl.dot(q, tl.trans(k), input_precision=PRECISION)

        factor = qk_scale
        if inputs.SOFTCAP:
            scale_over_cap = tl.minimum(scale / inputs.softcap, 3e38)
            qk = apply_softcap(qk * scale_over_cap, inputs.softcap, q.dtype == tl.float32)
            factor = 1.0 if NATURAL else LOG2E
        if MASKED:
            # [M, N]
            if inputs.k_index_ptr is not None:
                k_index = tl.load(inputs.k_index_ptr + seq.k_start + key, mask=exists, other=0)
                visible = (first_key[:, None] <= k_index[None, :]) & (
                    k_index[None, :] <= last_key[:, None]
                )
                visible = visible & exists[None, :]
            else:
                visible = (first_key[:, None] <= key[None, :]) & (key[None, :] <= last_key[:, None])
            qk = qk * factor
            if inputs.mask_ptr is not None:
                mask_ptr = inputs.mask_ptr + mask_row[:, None] + key[None, :]
                if mask_ptr.dtype.element_ty == tl.uint8:
                    visible = visible & (tl.load(mask_ptr, mask=exists[None, :], other=0) != 0)
                else:
                    bias = tl.load(mask_ptr, mask=exists[None, :], other=0.0)
                    visible = visible & (bias != -float("inf"))
                    qk += bias
            # select instead of adding -inf: a hidden score may be NaN
            qk = tl.where(visible, qk, -float("inf"))
            # [M]
            m_new = tl.maximum(m_i, tl.max(qk, 1))
            shift = tl.where(m_new == -float("inf"), 0.0, m_new)
            # [M, N]
            p = exp_score(qk - shift[:, None], NATURAL)
        else:
            m_new = tl.maximum(m_i, tl.max(qk, 1) * factor)
            shift = tl.where(m_new == -float("inf"), 0.0, m_new)
            p = exp_score(qk * factor - shift[:, None], NATURAL)

        # [M]
        alpha = exp_score(m_i - shift, NATURAL)
        m_i = m_new
        l_i = l_i * alpha + tl.sum(p, 1)
        # [M, BLOCK_DV]
        acc = acc * alpha[:, None]
        # [N, BLOCK_DV]
        v = load_rows(v_row, exists, inputs.VALUE_DIM, inputs.BLOCK_DV, not MASKED)
        if NONFINITE:
            # 0 * NaN is NaN: add values that are not finite only to rows that see them;
            # NaN counts as inf and as -inf, whose sum is NaN
            v_float = v.to(tl.float32)
            finite = tl.abs(v_float) < float("inf")
            weight = tl.where(visible, 1.0, 0.0).to(v.dtype)
            has_inf = tl.where(finite | (v_float == -float("inf")), 0.0, 1.0).to(v.dtype)
            has_neg_inf = tl.where(finite | (v_float == float("inf")), 0.0, 1.0).to(v.dtype)
            acc += tl.where(tl.dot(weight, has_inf) > 0, float("inf"), 0.0)
            acc += tl.where(tl.dot(weight, has_neg_inf) > 0, -float("inf"), 0.0)
            v = tl.where(finite, v_float, 0.0).to(v.dtype)
        acc = tl.dot(p.to(v.dtype), v, acc, input_precision=PRECISION)
    return acc, m_i, l_i
