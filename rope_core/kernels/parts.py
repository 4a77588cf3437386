"""Parts of the keys that few queries attend to: where they are kept, and how they are merged."""

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.given import Given
from rope_core.kernels.online import empty, finish, power
from rope_core.kernels.visible import seen_by_some

SPLIT = 512
"""Keys of a part."""

MERGED = 8
"""Parts that are merged at a time."""

MERGED_ROWS = 4
"""Rows of a tile that is merged."""


@triton.jit
def parts_of(num_queries, num_keys, indexed, behind, ahead, chunk, SPLIT: tl.constexpr):
    """Return start and end of the keys that a sequence's queries may see, and of their parts."""
    start = num_keys * 0
    end = num_keys
    if not indexed:
        first = num_keys - num_queries
        start, end = seen_by_some(first, num_keys - 1, num_keys, behind, ahead, chunk)
    return start, end, start // SPLIT, tl.cdiv(end, SPLIT)


@triton.jit
def put(
    acc,
    top,
    total,
    row,
    num_rows,
    part_ptr,  # [max_rows, VALUE_DIM + 2] float32
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Write acc, top and total of rows of a part."""
    exists = row < num_rows
    at = part_ptr + row.to(tl.int64) * (VALUE_DIM + 2)
    d = tl.arange(0, BLOCK_DV)
    tl.store(at[:, None] + d[None, :], acc, mask=exists[:, None] & (d < VALUE_DIM)[None, :])
    tl.store(at + VALUE_DIM, top, mask=exists)
    tl.store(at + VALUE_DIM + 1, total, mask=exists)


@triton.jit(
    do_not_specialize=[
        *("num_row_tiles", "num_kv_heads", "min_rows", "max_rows"),
        *("behind", "ahead", "chunk"),
    ]
)
def merge_kernel(
    part_ptr,  # [parts, Hkv, max_rows, VALUE_DIM + 2] float32
    out_ptr,  # [Tq, H, VALUE_DIM]
    lse_ptr,  # [Tq, H] float32, contiguous
    cu_seqlens_q_ptr,  # [N + 1]
    cu_seqlens_k_ptr,  # [N + 1]
    sinks_ptr,  # [H], or None
    num_row_tiles,
    num_kv_heads,
    min_rows,
    max_rows,
    stride_out_token,
    stride_out_head,
    behind,
    ahead,
    chunk,
    INDEXED: tl.constexpr,
    NATURAL: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    MERGED: tl.constexpr,
    MERGED_ROWS: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Merge what the parts of the keys gave, in their order, and the sinks."""
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    first_row = program % num_row_tiles * MERGED_ROWS
    seq = (program // num_row_tiles).to(tl.int64)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    k_start = tl.load(cu_seqlens_k_ptr + seq).to(tl.int64)
    num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
    num_keys = (tl.load(cu_seqlens_k_ptr + seq + 1) - k_start).to(tl.int32)
    num_rows = num_queries * GROUP
    if (num_rows <= min_rows) | (num_rows > max_rows) | (first_row >= num_rows):
        return
    row = first_row + tl.arange(0, MERGED_ROWS)
    in_rows = row < num_rows
    _, _, first, last = parts_of(num_queries, num_keys, INDEXED, behind, ahead, chunk, SPLIT)
    num_parts = last - first
    stride_part = num_kv_heads.to(tl.int64) * max_rows * (VALUE_DIM + 2)
    part_ptr += (k_start // SPLIT + seq) * stride_part
    rows_ptr = part_ptr + (kv_head * max_rows + row) * (VALUE_DIM + 2)

    acc, top, total = empty(MERGED_ROWS, BLOCK_DV)
    for at in range(0, num_parts, MERGED):
        part = at + tl.arange(0, MERGED)
        found = rows_ptr[:, None] + part[None, :] * stride_part + VALUE_DIM
        exists = in_rows[:, None] & (part < num_parts)[None, :]
        tops = tl.load(found, mask=exists, other=-float("inf"))
        top = tl.maximum(top, tl.max(tops, 1))
    shift = tl.where(top == -float("inf"), 0.0, top)

    d = tl.arange(0, BLOCK_DV)
    for at in range(0, num_parts, MERGED):
        part = at + tl.arange(0, MERGED)
        found = rows_ptr[:, None] + part[None, :] * stride_part
        exists = in_rows[:, None] & (part < num_parts)[None, :]
        tops = tl.load(found + VALUE_DIM, mask=exists, other=-float("inf"))
        totals = tl.load(found + VALUE_DIM + 1, mask=exists, other=0.0)
        in_part = exists[:, :, None] & (d < VALUE_DIM)[None, None, :]
        values = tl.load(found[:, :, None] + d[None, None, :], mask=in_part, other=0.0)
        weights = power(tops - shift[:, None], NATURAL)
        total += tl.sum(weights * totals, 1)
        acc += tl.sum(weights[:, :, None] * values, 1)

    head = kv_head * GROUP + row % GROUP
    token = q_start + row // GROUP
    sink = sinks_ptr
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head).to(tl.float32)
    out, lse = finish(acc, top, total, sink, NATURAL)
    at = out_ptr + (token * stride_out_token + head * stride_out_head)[:, None] + d[None, :]
    in_out = in_rows[:, None] & (d < VALUE_DIM)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=in_out)
    tl.store(lse_ptr + token * num_kv_heads * GROUP + head, lse, mask=in_rows)


def merge(parts: Tensor, given: Given, min_rows: int, max_rows: int) -> None:
    """Merge the parts of all sequences of more than `min_rows` and up to `max_rows` rows.

    Args:
        parts: float32 `[parts, Hkv, max_rows, Dv + 2]`: values, greatest score, sum of weights.
        given: the call.
        min_rows: rows, queries times group, that are too few.
        max_rows: most rows.
    """
    num_row_tiles = triton.cdiv(max_rows, MERGED_ROWS)
    merge_kernel[(given.num_seqs * num_row_tiles * given.num_kv_heads,)](
        parts,
        given.out,
        given.lse,
        given.cu_seqlens_q,
        given.cu_seqlens_k,
        given.sinks,
        num_row_tiles,
        given.num_kv_heads,
        min_rows,
        max_rows,
        given.out.stride(0),
        given.out.stride(1),
        given.behind,
        given.ahead,
        given.chunk,
        INDEXED=given.q_index is not None,
        NATURAL=given.mask is not None,
        GROUP=given.group,
        VALUE_DIM=given.v.shape[-1],
        SPLIT=SPLIT,
        MERGED=MERGED,
        MERGED_ROWS=MERGED_ROWS,
        BLOCK_DV=given.block_dv,
        num_warps=4,
    )
