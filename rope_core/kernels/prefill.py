"""Attention from many queries: a program has a tile of a sequence's rows and loops over its keys.

FlashAttention-2 (Dao, 2023) over packed sequences; see `attention_inputs` for the rows of a tile.
"""

import triton
import triton.language as tl

from rope_core.kernels.attention_inputs import load_queries, load_sequence, token_and_head
from rope_core.kernels.attention_output import store_output
from rope_core.kernels.masking import indexed_key_range, row_key_range, tile_key_range
from rope_core.kernels.online_softmax import (
    NONFINITE_BLOCK,
    accumulate,
    all_finite,
    attend_rows_nonfinite,
    init_state,
)
from rope_core.kernels.tile_scheduler import FIRST_PROGRAM, find_program

INDEX_BLOCK = tl.constexpr(256)
"""Key positions that are read at a time to find the keys that a tile sees."""


@triton.jit
def store_rows(acc, m_i, l_i, row, seq, inputs, output):
    """Write out and lse of the rows `[M]` of a sequence."""
    exists = row < seq.num_rows
    token, head = token_and_head(row, seq, inputs.group_size)
    d = tl.arange(0, inputs.BLOCK_DV)[None, :]
    natural: tl.constexpr = inputs.mask_ptr is not None
    store_output(acc, m_i, l_i, natural, token, head, d, exists, exists, output)


@triton.jit
def attend_tile(
    inputs,
    output,
    work_ptr,
    programs_offset,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from the tile of rows of this program to the keys that they see."""
    program, kv_head, index, record_ptr = find_program(
        work_ptr, programs_offset, inputs.num_kv_heads
    )
    seq = load_sequence(inputs, index, kv_head)
    # the last tiles of a causal sequence are the longest: they go first
    tile = tl.cdiv(seq.num_rows, BLOCK_M) - 1 - (program - tl.load(record_ptr + FIRST_PROGRAM))
    if tile < 0:
        return  # `backends.repair` sets the lengths on the device to 0

    INDEXED: tl.constexpr = inputs.k_index_ptr is not None
    HAS_INNER: tl.constexpr = (inputs.mask_ptr is None) & (not INDEXED)
    # [BLOCK_M]
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # [BLOCK_M, BLOCK_D], [BLOCK_M], [BLOCK_M]
    q, position, mask_row = load_queries(inputs, seq, row)
    # [BLOCK_M]
    first_key, last_key = row_key_range(position, seq, inputs)
    if INDEXED:
        low = tl.min(tl.where(row < seq.num_rows, position, 2**63 - 1), 0)
        high = tl.max(tl.where(row < seq.num_rows, position, -(2**63)), 0)
        start, end = indexed_key_range(low, high, seq, inputs, INDEX_BLOCK)
    else:
        last_row = tl.minimum(tile * BLOCK_M + BLOCK_M, seq.num_rows) - 1
        low = seq.first_query + tile * BLOCK_M // inputs.group_size
        high = seq.first_query + last_row // inputs.group_size
        start, end, inner_start, inner_end = tile_key_range(low, high, seq, inputs)
    first = start // BLOCK_N
    last = tl.cdiv(end, BLOCK_N)
    # tiles of keys: num_before with hidden keys, num_inner that all rows see, the others
    num_before = last - first
    num_inner = last * 0
    if HAS_INNER:
        inner = tl.minimum(tl.maximum(tl.cdiv(inner_start, BLOCK_N), first), last)
        num_before = inner - first
        num_inner = tl.maximum(tl.minimum(inner_end // BLOCK_N, last) - inner, 0)

    # [BLOCK_M, BLOCK_DV], [BLOCK_M], [BLOCK_M]
    acc, m_i, l_i = init_state(BLOCK_M, inputs.BLOCK_DV)
    # fmt: off
    acc, m_i, l_i = accumulate(
        acc, m_i, l_i, inputs, seq, q, first_key, last_key, mask_row,
        first, last - first - num_inner, num_before, num_inner,
        BLOCK_N, PRECISION, MASKED=True, NONFINITE=False,
    )
    if HAS_INNER:
        acc, m_i, l_i = accumulate(
            acc, m_i, l_i, inputs, seq, q, first_key, last_key, mask_row,
            first + num_before, num_inner, num_inner, 0,
            BLOCK_N, PRECISION, MASKED=False, NONFINITE=False,
        )
    # load again, so that the tile number need not stay in a register during the loops
    tile = tl.cdiv(seq.num_rows, BLOCK_M) - 1 - (program - tl.load(record_ptr + FIRST_PROGRAM))
    # [BLOCK_M]
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    if all_finite(acc):
        store_rows(acc, m_i, l_i, row, seq, inputs, output)
    else:
        for block_start in range(0, BLOCK_M, NONFINITE_BLOCK):
            # [NONFINITE_BLOCK]
            row_block = tile * BLOCK_M + block_start + tl.arange(0, NONFINITE_BLOCK)
            acc_block, m_block, l_block = attend_rows_nonfinite(
                inputs, seq, row_block, first, last - first, BLOCK_N, PRECISION
            )
            store_rows(acc_block, m_block, l_block, row_block, seq, inputs, output)
    # fmt: on
