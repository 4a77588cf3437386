"""The inputs of the attention kernels, and the loads at the start of a program.

A tile has BLOCK_M rows. Row r of a sequence is query `r // group_size` of the head
`kv_head * group_size + r % group_size`, so that a key is read once for all heads that share it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rope_core.kernels.paged_kv import load_rows


class AttentionInputs(NamedTuple):
    """Arguments that prefill and decode share, in the order in which the kernels take them.

    Strides of q, k and v are in units of STRIDE_UNIT elements.
    """

    q_ptr: Any  # [Tq, H, HEAD_DIM]
    k_ptr: Any  # [Tk, Hkv, HEAD_DIM], or pages [P, Hkv, PAGE_SIZE, HEAD_DIM]
    v_ptr: Any  # as k, with VALUE_DIM
    cu_seqlens_q_ptr: Any  # int32 [N + 1]
    cu_seqlens_k_ptr: Any  # int32 [N + 1]
    block_table_ptr: Any  # int32 [N, blocks], or None where keys are packed
    mask_ptr: Any  # uint8 or float32 [1 or N, 1 or H, queries, keys], or None
    q_index_ptr: Any  # int64 [Tq], or None
    k_index_ptr: Any  # int64 [Tk], or None
    segment_ptr: Any  # int32 [N, SEGMENT_FIELDS], stride of block_table; or None
    num_kv_heads: Any
    group_size: Any  # query heads that share a head of keys
    stride_q_token: Any
    stride_q_head: Any
    stride_k_page: Any
    stride_k_slot: Any  # of a packed key, or of a slot in a page
    stride_k_head: Any
    stride_v_page: Any
    stride_v_slot: Any
    stride_v_head: Any
    stride_block_table: Any
    stride_mask_seq: Any
    stride_mask_head: Any
    stride_mask_q: Any
    is_packed_mask: Any  # 1 where all sequences share the axes of the mask, else 0
    scale: Any
    softcap: Any  # read only with SOFTCAP
    window_left: Any
    window_right: Any
    chunk: Any
    STRIDE_UNIT: Any
    HEAD_DIM: Any
    VALUE_DIM: Any
    PAGE_SIZE: Any
    SOFTCAP: Any
    BLOCK_D: Any  # power of two, >= HEAD_DIM
    BLOCK_DV: Any  # power of two, >= VALUE_DIM


NUMBERS = tuple(f for f in AttentionInputs._fields if f.islower() and not f.endswith("_ptr"))
"""Fields that a kernel takes as numbers."""

UNALIGNED = (
    *("cu_seqlens_q_ptr", "cu_seqlens_k_ptr", "block_table_ptr", "mask_ptr"),
    *("q_index_ptr", "k_index_ptr", "segment_ptr"),
)
"""Fields that a kernel takes as tensors at any address."""


SEGMENT_FIELDS = 3
"""Numbers of a segment: the slot of its first key in its first page, the index of this key, and the
index of the first query."""


class Sequence(NamedTuple):
    """The sequence and the head of keys that a program attends within."""

    index: Any  # int64
    kv_head: Any  # int64
    q_start: Any  # int64, its first row of q
    k_start: Any  # int64, its first row of packed keys
    num_queries: Any  # int32
    num_keys: Any  # int32
    num_rows: Any  # int32, num_queries * group_size
    first_slot: Any  # int32, slot of the first key in its page
    first_key: Any  # int32, position of the first key
    first_query: Any  # int32, position of the first query


@triton.jit
def load_sequence(inputs, index, kv_head):
    """Return where the sequence `index` starts and how long it is."""
    q_start = tl.load(inputs.cu_seqlens_q_ptr + index).to(tl.int64)
    k_start = tl.load(inputs.cu_seqlens_k_ptr + index).to(tl.int64)
    num_queries = (tl.load(inputs.cu_seqlens_q_ptr + index + 1) - q_start).to(tl.int32)
    num_keys = (tl.load(inputs.cu_seqlens_k_ptr + index + 1) - k_start).to(tl.int32)
    num_rows = num_queries * inputs.group_size
    if inputs.segment_ptr is not None:
        segment_ptr = inputs.segment_ptr + index * inputs.stride_block_table
        first_slot = tl.load(segment_ptr)
        first_key = tl.load(segment_ptr + 1)
        first_query = tl.load(segment_ptr + 2)
    else:
        first_slot = num_keys * 0
        first_key = first_slot
        first_query = num_keys - num_queries
    # fmt: off
    return Sequence(
        index, kv_head, q_start, k_start, num_queries, num_keys, num_rows,
        first_slot, first_key, first_query,
    )
    # fmt: on


@triton.jit
def token_and_head(row, seq, group_size):
    """Return the row of q and the query head, int64 `[M]`, of rows `[M]` of a sequence."""
    return seq.q_start + row // group_size, seq.kv_head * group_size + row % group_size


@triton.jit
def load_queries(inputs, seq, row):
    """Return queries `[M, BLOCK_D]`, their positions `[M]`, and int64 offsets in the mask `[M]`.

    A negative scale negates the queries, as scores are multiplied by its absolute value.
    """
    # [M]
    exists = row < seq.num_rows
    token, head = token_and_head(row, seq, inputs.group_size)
    q_row = (token * inputs.stride_q_token + head * inputs.stride_q_head) * inputs.STRIDE_UNIT
    # [M, BLOCK_D]
    q = load_rows(inputs.q_ptr + q_row, exists, inputs.HEAD_DIM, inputs.BLOCK_D, False)
    q = (q * tl.where(inputs.scale < 0, -1.0, 1.0)).to(q.dtype)
    # [M]
    query = row // inputs.group_size
    if inputs.q_index_ptr is not None:
        position = tl.load(inputs.q_index_ptr + token, mask=exists, other=0)
    else:
        position = query + seq.first_query
    seq_offset = seq.index * inputs.stride_mask_seq + inputs.is_packed_mask * (
        seq.q_start * inputs.stride_mask_q + seq.k_start
    )
    mask_row = tl.where(exists, query.to(tl.int64) * inputs.stride_mask_q, 0)
    return q, position, seq_offset + mask_row + head * inputs.stride_mask_head
