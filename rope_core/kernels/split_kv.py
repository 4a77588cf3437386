"""Partial results of the splits of a sequence's keys, as FlashDecoding has them.

A row of a split has its values, not divided by l_i, then m_i and l_i: the log-sum-exp alone would
round weights of large scores.
"""

import triton
import triton.language as tl

STATISTICS = tl.constexpr(4)
"""Numbers after the values of a partial row: m_i, l_i, and two that align rows to 16 bytes."""


@triton.jit
def partial_rows(part_ptr, first_row, kv_head, num_kv_heads, VALUE_DIM: tl.constexpr):
    """Return the pointer to row `first_row`, int64, for one head of keys, and the stride of rows.

    `part_ptr` is float32 `[partial rows, Hkv, VALUE_DIM + STATISTICS]`.
    """
    stride_row = num_kv_heads.to(tl.int64) * (VALUE_DIM + STATISTICS)
    return part_ptr + kv_head * (VALUE_DIM + STATISTICS) + first_row * stride_row, stride_row


@triton.jit
def store_partial(
    acc,  # [M, BLOCK_DV] float32
    m_i,  # [M] float32
    l_i,  # [M] float32
    row,  # [M] int32
    num_rows,
    part_ptr,  # the first row of this split and head
    stride_row,  # in elements
    inputs,
):
    """Write acc, m_i and l_i of the rows of a split."""
    exists = row < num_rows
    row_ptr = part_ptr + row.to(tl.int64) * stride_row
    d = tl.arange(0, inputs.BLOCK_DV)[None, :]
    # [M, BLOCK_DV]
    tl.store(row_ptr[:, None] + d, acc, mask=exists[:, None] & (d < inputs.VALUE_DIM))
    # [M]
    tl.store(row_ptr + inputs.VALUE_DIM, m_i, mask=exists)
    tl.store(row_ptr + inputs.VALUE_DIM + 1, l_i, mask=exists)
