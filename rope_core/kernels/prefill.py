"""Attention from many queries: a tile of a sequence's queries goes over the keys it sees.

The rows of a tile are queries times the heads of a group, so that a key is read once for its group.
"""

import torch
import triton
import triton.language as tl

from rope_core.kernels.given import Given, Tiles
from rope_core.kernels.online import accumulate, finish
from rope_core.kernels.visible import seen_by_all, seen_by_index, seen_by_some

SCAN = tl.constexpr(256)


@triton.jit
def find_sequence(tile, cu_seqlens_q_ptr, num_seqs, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return the sequence of a tile, and which of that sequence's tiles it is.

    Sequence s has the tiles from cu_seqlens_q[s] * GROUP // BLOCK_M + s on: enough for its rows.
    """
    before = tile * 0
    for at in range(0, num_seqs, SCAN):
        s = at + tl.arange(0, SCAN)
        start = tl.load(cu_seqlens_q_ptr + s, mask=s < num_seqs, other=0).to(tl.int64)
        begun = (s < num_seqs) & (start * GROUP // BLOCK_M + s <= tile)
        before += tl.sum(begun.to(tl.int32), 0)
    sequence = before - 1
    start = tl.load(cu_seqlens_q_ptr + sequence).to(tl.int64)
    return sequence, (tile - sequence - start * GROUP // BLOCK_M).to(tl.int32)


@triton.jit(
    do_not_specialize=["num_seqs", "num_tiles", "num_kv_heads", "min_rows"]
    + ["softcap", "behind", "ahead", "chunk"]
)
def prefill_kernel(
    q_ptr,  # [Tq, H, HEAD_DIM]
    k_ptr,  # [Tk, Hkv, HEAD_DIM], or pages [P, Hkv, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # as k, VALUE_DIM wide
    out_ptr,  # [Tq, H, VALUE_DIM]
    lse_ptr,  # [Tq, H] float32, contiguous
    cu_seqlens_q_ptr,  # [num_seqs + 1]
    cu_seqlens_k_ptr,  # [num_seqs + 1]
    table_ptr,  # [num_seqs, blocks], or None
    sinks_ptr,  # [H], or None
    mask_ptr,  # [sequences, heads, queries, keys], or None
    q_index_ptr,  # [Tq] int64, or None
    k_index_ptr,  # [Tk] int64, or None
    num_seqs,
    num_tiles,
    num_kv_heads,
    min_rows,
    stride_q_token,
    stride_q_head,
    stride_k_page,
    stride_k_slot,
    stride_k_head,
    stride_v_page,
    stride_v_slot,
    stride_v_head,
    stride_out_token,
    stride_out_head,
    stride_table,
    stride_mask_seq,
    stride_mask_head,
    stride_mask_q,
    stride_mask_k,
    packed_mask,  # 1 where all sequences share the axes of the mask, else 0
    scale,
    softcap,
    behind,
    ahead,
    chunk,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two, >= HEAD_DIM
    BLOCK_DV: tl.constexpr,  # power of two, >= VALUE_DIM
):
    # the last tiles of a causal sequence are the longest: they go first
    program = tl.program_id(0).to(tl.int64)
    kv_head = program % num_kv_heads
    tile = num_tiles - 1 - program // num_kv_heads
    seq, tile = find_sequence(tile, cu_seqlens_q_ptr, num_seqs, GROUP, BLOCK_M)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
    num_rows = num_queries * GROUP
    if (num_rows <= min_rows) | (tile * BLOCK_M >= num_rows):
        return
    k_start = tl.load(cu_seqlens_k_ptr + seq).to(tl.int64)
    num_keys = (tl.load(cu_seqlens_k_ptr + seq + 1) - k_start).to(tl.int32)

    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = row < num_rows
    query = row // GROUP
    token = q_start + query
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, BLOCK_D)
    at = q_ptr + (token * stride_q_token + head * stride_q_head)[:, None] + d[None, :]
    q = tl.load(at, mask=in_rows[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    # turned in q, a negative scale is a positive one
    q = (q * tl.where(scale < 0, -1.0, 1.0)).to(q.dtype)
    size = tl.abs(scale)

    k_ptr += kv_head * stride_k_head
    v_ptr += kv_head * stride_v_head
    if table_ptr is not None:
        table_ptr += seq.to(tl.int64) * stride_table
    else:
        k_ptr += k_start * stride_k_slot
        v_ptr += k_start * stride_v_slot
    mask_at = None
    if mask_ptr is not None:
        mask_ptr += seq.to(tl.int64) * stride_mask_seq
        mask_ptr += packed_mask * (q_start * stride_mask_q + k_start * stride_mask_k)
        mask_at = mask_ptr + tl.where(in_rows, query.to(tl.int64) * stride_mask_q, 0)
        mask_at += head * stride_mask_head

    if q_index_ptr is not None:
        place = tl.load(q_index_ptr + token, mask=in_rows, other=0)
        low = tl.min(tl.where(in_rows, place, 2**62), 0)
        high = tl.max(tl.where(in_rows, place, -(2**62)), 0)
        k_index_ptr += k_start
        start, end = seen_by_index(low, high, k_index_ptr, num_keys, behind, ahead, chunk, SCAN)
    else:
        place = query + num_keys - num_queries
        low = tile * BLOCK_M // GROUP + num_keys - num_queries
        high = (tl.minimum(tile * BLOCK_M + BLOCK_M, num_rows) - 1) // GROUP
        high += num_keys - num_queries
        start, end = seen_by_some(low, high, num_keys, behind, ahead, chunk)
    first = start // BLOCK_N
    last = tl.cdiv(end, BLOCK_N)
    left = last - first
    whole = last * 0
    if (mask_ptr is None) & (q_index_ptr is None):
        inner, inner_end = seen_by_all(low, high, num_keys, behind, ahead, chunk)
        inner = tl.minimum(tl.maximum(tl.cdiv(inner, BLOCK_N), first), last)
        left = inner - first
        whole = tl.maximum(tl.minimum(inner_end // BLOCK_N, last) - inner, 0)

    acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    top = total - float("inf")
    keys = (num_keys, k_ptr, v_ptr, table_ptr)
    strides = (stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, stride_mask_k)
    rules = (size, softcap, behind, ahead, chunk)
    blocks = (HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE)
    given = (*keys, k_index_ptr, mask_at, *strides, *rules, *blocks)
    edges = last - first - whole
    acc, top, total = accumulate(
        acc, top, total, q, place, first, edges, left, whole, *given, EDGES=True, SAFE=False
    )
    if (mask_ptr is None) & (q_index_ptr is None):
        inner = first + left
        acc, top, total = accumulate(
            acc, top, total, q, place, inner, whole, whole, 0, *given, EDGES=False, SAFE=False
        )
    if tl.max(tl.max((tl.abs(acc) < float("inf")).to(tl.int32) ^ 1, 1), 0) > 0:
        acc = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        top = total - float("inf")
        all = last - first
        acc, top, total = accumulate(
            acc, top, total, q, place, first, all, all, 0, *given, EDGES=True, SAFE=True
        )
    sink = None
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head).to(tl.float32)
    out, lse = finish(acc, top, total, sink, mask_ptr is not None)
    d = tl.arange(0, BLOCK_DV)
    at = out_ptr + (token * stride_out_token + head * stride_out_head)[:, None] + d[None, :]
    in_out = in_rows[:, None] & (d < VALUE_DIM)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=in_out)
    num_heads = num_kv_heads.to(tl.int64) * GROUP
    tl.store(lse_ptr + token * num_heads + head, lse, mask=in_rows)


def launch(given: Given, min_rows: int) -> None:
    """Attend within all sequences that have more than `min_rows` rows: queries times group."""
    tiles = prefill_tiles(given)
    num_tiles = given.num_queries * given.group // tiles.m + given.num_seqs
    grid = (num_tiles * given.num_kv_heads,)
    prefill_kernel[grid](
        *given.tensors,
        given.num_seqs,
        num_tiles,
        given.num_kv_heads,
        min_rows,
        *given.numbers,
        *given.model,
        BLOCK_M=tiles.m,
        BLOCK_N=tiles.n,
        BLOCK_D=given.block_d,
        BLOCK_DV=given.block_dv,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def prefill_tiles(given: Given) -> Tiles:
    """Return the shape of tiles for the width of a head and the dtype, and never for the batch."""
    width = max(given.block_d, given.block_dv)
    if given.q.dtype == torch.float32:
        return FLOAT32[max(64, width)]
    return HALF[max(64, width)]


# by the width of a head: rows, keys, warps, stages
HALF = {
    64: Tiles(128, 128, 4, 3),
    128: Tiles(128, 64, 8, 3),
    256: Tiles(64, 32, 4, 3),
    512: Tiles(64, 32, 8, 2),
}
FLOAT32 = {
    64: Tiles(64, 32, 4, 2),
    128: Tiles(32, 32, 4, 2),
    256: Tiles(32, 32, 4, 2),
    512: Tiles(16, 16, 4, 2),
}
