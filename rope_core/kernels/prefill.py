"""Attention from many queries: a tile of a sequence's queries goes over the keys it sees.

The rows of a tile are queries times the heads of a group, so that a key is read once for its group.
"""

import torch
import triton
import triton.language as tl

from rope_core.kernels.given import Given, Tiles
from rope_core.kernels.online import accumulate, all_finite, empty, finish, read_rows
from rope_core.kernels.visible import seen_by_all, seen_by_index, seen_by_some

SCAN = tl.constexpr(256)
SAFE_ROWS = tl.constexpr(16)
SAFE_KEYS = tl.constexpr(16)


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


@triton.jit
def put(
    acc,
    top,
    total,
    row,
    num_rows,
    out_ptr,
    lse_ptr,
    sinks_ptr,
    q_start,
    kv_head,
    num_kv_heads,
    stride_out_token,
    stride_out_head,
    NATURAL: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Write out and lse of rows."""
    exists = row < num_rows
    token = q_start + row // GROUP
    head = kv_head * GROUP + row % GROUP
    sink = sinks_ptr
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head).to(tl.float32)
    out, lse = finish(acc, top, total, sink, NATURAL)
    d = tl.arange(0, BLOCK_DV)
    at = out_ptr + (token * stride_out_token + head * stride_out_head)[:, None] + d[None, :]
    in_out = exists[:, None] & (d < VALUE_DIM)[None, :]
    tl.store(at, out.to(out_ptr.dtype.element_ty), mask=in_out)
    num_heads = num_kv_heads.to(tl.int64) * GROUP
    tl.store(lse_ptr + token * num_heads + head, lse, mask=exists)


@triton.jit(
    do_not_specialize=[
        *("num_seqs", "num_tiles", "num_kv_heads", "min_rows"),
        *("behind", "ahead", "chunk"),
    ]
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
    """Attend from one tile of rows, queries times the heads of a group, to their keys."""
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

    k_ptr += kv_head * stride_k_head
    v_ptr += kv_head * stride_v_head
    if table_ptr is not None:
        table_ptr += seq * stride_table
    else:
        k_ptr += k_start * stride_k_slot
        v_ptr += k_start * stride_v_slot
    if mask_ptr is not None:
        mask_ptr += seq * stride_mask_seq
        mask_ptr += packed_mask * (q_start * stride_mask_q + k_start * stride_mask_k)
    past = num_keys - num_queries
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # fmt: off
    q, place, mask_rows = read_rows(
        row, num_rows, q_ptr, q_index_ptr, q_start, past, kv_head, stride_q_token, stride_q_head,
        stride_mask_q, stride_mask_head, scale, GROUP, HEAD_DIM, BLOCK_D,
    )
    # fmt: on

    if q_index_ptr is not None:
        low = tl.min(tl.where(row < num_rows, place, 2**62), 0)
        high = tl.max(tl.where(row < num_rows, place, -(2**62)), 0)
        k_index_ptr += k_start
        start, end = seen_by_index(low, high, k_index_ptr, num_keys, behind, ahead, chunk, SCAN)
    else:
        low = past + tile * BLOCK_M // GROUP
        high = past + (tl.minimum(tile * BLOCK_M + BLOCK_M, num_rows) - 1) // GROUP
        start, end = seen_by_some(low, high, num_keys, behind, ahead, chunk)
    first = start // BLOCK_N
    last = tl.cdiv(end, BLOCK_N)
    left = last - first
    whole = last * 0
    whole_tiles: tl.constexpr = (mask_ptr is None) & (q_index_ptr is None)
    if whole_tiles:
        inner, inner_end = seen_by_all(low, high, num_keys, behind, ahead, chunk)
        inner = tl.minimum(tl.maximum(tl.cdiv(inner, BLOCK_N), first), last)
        left = inner - first
        whole = tl.maximum(tl.minimum(inner_end // BLOCK_N, last) - inner, 0)

    acc, top, total = empty(BLOCK_M, BLOCK_DV)
    # fmt: off
    acc, top, total = accumulate(
        acc, top, total, q, place, mask_rows, first, last - first - whole, left, whole,
        num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
        stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, stride_mask_k,
        tl.abs(scale), softcap, behind, ahead, chunk,
        HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, EDGES=True, SAFE=False,
    )
    if whole_tiles:
        acc, top, total = accumulate(
            acc, top, total, q, place, mask_rows, first + left, whole, whole, 0,
            num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
            stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, stride_mask_k,
            tl.abs(scale), softcap, behind, ahead, chunk,
            HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, EDGES=False, SAFE=False,
        )
    if all_finite(acc):
        put(
            acc, top, total, row, num_rows, out_ptr, lse_ptr, sinks_ptr, q_start, kv_head,
            num_kv_heads, stride_out_token, stride_out_head, mask_ptr is not None, GROUP,
            VALUE_DIM, BLOCK_DV,
        )
    else:
        # again with care, in tiles so small that all this takes no registers from the above
        safe_first = first * (BLOCK_N // SAFE_KEYS)
        safe = (last - first) * (BLOCK_N // SAFE_KEYS)
        for at in range(0, BLOCK_M, SAFE_ROWS):
            few = tile * BLOCK_M + at + tl.arange(0, SAFE_ROWS)
            few_q, few_place, few_mask = read_rows(
                few, num_rows, q_ptr, q_index_ptr, q_start, past, kv_head, stride_q_token,
                stride_q_head, stride_mask_q, stride_mask_head, scale, GROUP, HEAD_DIM, BLOCK_D,
            )
            few_acc, few_top, few_total = empty(SAFE_ROWS, BLOCK_DV)
            few_acc, few_top, few_total = accumulate(
                few_acc, few_top, few_total, few_q, few_place, few_mask, safe_first, safe, safe, 0,
                num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
                stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, stride_mask_k,
                tl.abs(scale), softcap, behind, ahead, chunk,
                HEAD_DIM, VALUE_DIM, SAFE_KEYS, BLOCK_D, BLOCK_DV, PAGE_SIZE, EDGES=True, SAFE=True,
            )
            put(
                few_acc, few_top, few_total, few, num_rows, out_ptr, lse_ptr, sinks_ptr, q_start,
                kv_head, num_kv_heads, stride_out_token, stride_out_head, mask_ptr is not None,
                GROUP, VALUE_DIM, BLOCK_DV,
            )
    # fmt: on


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
    64: Tiles(128, 128, 8, 3),
    128: Tiles(128, 64, 8, 3),
    256: Tiles(64, 64, 8, 2),
    512: Tiles(64, 32, 8, 2),
}
FLOAT32 = {
    64: Tiles(32, 32, 8, 2),
    128: Tiles(32, 16, 8, 2),
    256: Tiles(16, 32, 8, 2),
    512: Tiles(16, 16, 8, 2),
}
