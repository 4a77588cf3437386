"""Attention from few queries: a program has a tile of rows and one split of the keys.

FlashDecoding (Dao et al., 2023): splits are attended to in parallel, and `merge` merges them. See
`attention_inputs` for the rows of a tile.
"""

import triton
import triton.language as tl

from rope_core.kernels.attention_inputs import load_sequence
from rope_core.kernels.online_softmax import (
    NONFINITE_BLOCK,
    all_finite,
    attend_rows,
    attend_rows_nonfinite,
)
from rope_core.kernels.split_kv import partial_rows, store_partial
from rope_core.kernels.tile_scheduler import (
    FIRST_KEY,
    FIRST_PARTIAL_ROW,
    FIRST_PROGRAM,
    SPLIT_LENGTH,
    find_program,
)


@triton.jit
def attend_split(
    inputs,
    part_ptr,
    work_ptr,
    programs_offset,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from the tile of rows of this program to its split of the keys."""
    program, kv_head, index, record_ptr = find_program(
        work_ptr, programs_offset, inputs.num_kv_heads
    )
    seq = load_sequence(inputs, index, kv_head)
    if seq.num_rows == 0:
        return  # `backends.repair` sets the lengths on the device to 0
    program -= tl.load(record_ptr + FIRST_PROGRAM)
    split_length = tl.load(record_ptr + SPLIT_LENGTH)
    start = tl.load(record_ptr + FIRST_KEY)
    first_partial_row = tl.load(record_ptr + FIRST_PARTIAL_ROW).to(tl.int64)
    num_row_tiles = tl.cdiv(seq.num_rows, BLOCK_M)
    split = program // num_row_tiles
    first_row = program % num_row_tiles * BLOCK_M
    split_start = (start // split_length + split) * split_length
    first = tl.maximum(start, split_start) // BLOCK_N
    num_tiles = tl.cdiv(tl.minimum(seq.num_keys, split_start + split_length), BLOCK_N) - first

    # [BLOCK_M]
    row = first_row + tl.arange(0, BLOCK_M)
    # [BLOCK_M, BLOCK_DV], [BLOCK_M], [BLOCK_M]
    acc, m_i, l_i = attend_rows(
        inputs, seq, row, first, num_tiles, BLOCK_M, BLOCK_N, PRECISION, NONFINITE=False
    )
    first_partial_row += split.to(tl.int64) * seq.num_rows
    part_ptr, stride_row = partial_rows(
        part_ptr, first_partial_row, kv_head, inputs.num_kv_heads, inputs.VALUE_DIM
    )
    if all_finite(acc):
        store_partial(acc, m_i, l_i, row, seq.num_rows, part_ptr, stride_row, inputs)
    else:
        for block_start in range(0, BLOCK_M, NONFINITE_BLOCK):
            # [NONFINITE_BLOCK]
            row_block = first_row + block_start + tl.arange(0, NONFINITE_BLOCK)
            acc_block, m_block, l_block = attend_rows_nonfinite(
                inputs, seq, row_block, first, num_tiles, BLOCK_N, PRECISION
            )
            store_partial(
                acc_block, m_block, l_block, row_block, seq.num_rows, part_ptr, stride_row, inputs
            )
