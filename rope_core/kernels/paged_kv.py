"""Keys and values in memory: packed rows, or pages that a block table names.

As in PagedAttention (vLLM), key j of a sequence is in slot `j % PAGE_SIZE` of the page
`block_table[sequence, j // PAGE_SIZE]`. Key 0 of a segment is in `first_slot` of its first page.
"""

import triton
import triton.language as tl


@triton.jit
def key_value_rows(inputs, seq, key, exists):
    """Return pointers `[N]` to the rows of k and v of the keys `[N]`, int32, of a sequence."""
    unit: tl.constexpr = inputs.STRIDE_UNIT
    k_head = inputs.k_ptr + seq.kv_head * inputs.stride_k_head * unit
    v_head = inputs.v_ptr + seq.kv_head * inputs.stride_v_head * unit
    if inputs.block_table_ptr is None:
        token = key.to(tl.int64)
        k_head += seq.k_start * inputs.stride_k_slot * unit
        v_head += seq.k_start * inputs.stride_v_slot * unit
        # [N] int64
        k_offset = token * inputs.stride_k_slot
        v_offset = token * inputs.stride_v_slot
    else:
        block_table = inputs.block_table_ptr + seq.index * inputs.stride_block_table
        place = key
        if inputs.segment_ptr is not None:
            place += seq.first_slot
        page = tl.load(block_table + place // inputs.PAGE_SIZE, mask=exists, other=0).to(tl.int64)
        slot = (place % inputs.PAGE_SIZE).to(tl.int64)
        k_offset = page * inputs.stride_k_page + slot * inputs.stride_k_slot
        v_offset = page * inputs.stride_v_page + slot * inputs.stride_v_slot
    return k_head + k_offset * unit, v_head + v_offset * unit


@triton.jit
def load_rows(row_ptr, exists, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ALL_EXIST: tl.constexpr):
    """Return `[N, BLOCK]`: WIDTH elements of each row `[N]`; 0 beyond, and in missing rows."""
    d = tl.arange(0, BLOCK)
    # [N, BLOCK]
    ptr = row_ptr[:, None] + d[None, :]
    if ALL_EXIST and WIDTH == BLOCK:
        x = tl.load(ptr)
    elif WIDTH == BLOCK:
        x = tl.load(ptr, mask=exists[:, None], other=0.0)
    else:
        x = tl.load(ptr, mask=exists[:, None] & (d < WIDTH)[None, :], other=0.0)
    return x
