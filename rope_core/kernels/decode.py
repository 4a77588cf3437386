"""Attention from few queries: keys are split, the parts are attended to at once, then merged.

All queries of a sequence times the heads of a group are rows of one tile, so that a key is read
once. A part has a fixed number of keys, whatever the batch is, and parts are merged in order.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from rope_core.kernels.given import MIN_BLOCK, Given, Tiles
from rope_core.kernels.online import accumulate, all_finite, empty, read_rows
from rope_core.kernels.parts import SPLIT, merge, parts_of, put

SAFE_ROWS = tl.constexpr(16)
SAFE_KEYS = tl.constexpr(16)


@triton.jit(
    do_not_specialize=[
        *("num_row_tiles", "num_parts", "num_kv_heads", "min_rows", "max_rows"),
        *("behind", "ahead", "chunk"),
    ]
)
def decode_kernel(
    q_ptr,  # [Tq, H, HEAD_DIM]
    k_ptr,  # [Tk, Hkv, HEAD_DIM], or pages [P, Hkv, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # as k, VALUE_DIM wide
    out_ptr,  # not used, as lse_ptr and sinks_ptr are not: they are the merging kernel's
    lse_ptr,
    cu_seqlens_q_ptr,  # [N + 1]
    cu_seqlens_k_ptr,  # [N + 1]
    table_ptr,  # [N, blocks], or None
    sinks_ptr,
    mask_ptr,  # [sequences, heads, queries, keys], or None
    q_index_ptr,  # [Tq] int64, or None
    k_index_ptr,  # [Tk] int64, or None
    part_ptr,  # [parts, Hkv, max_rows, VALUE_DIM + 2] float32: values, greatest score, weights
    num_row_tiles,
    num_parts,
    num_kv_heads,
    min_rows,
    max_rows,
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
    packed_mask,
    scale,
    softcap,
    behind,
    ahead,
    chunk,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Attend from the few rows of a sequence to one part of its keys."""
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    row_tile = program % num_row_tiles
    program //= num_row_tiles
    this_part = program % num_parts
    seq = (program // num_parts).to(tl.int64)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    k_start = tl.load(cu_seqlens_k_ptr + seq).to(tl.int64)
    num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
    num_keys = (tl.load(cu_seqlens_k_ptr + seq + 1) - k_start).to(tl.int32)
    num_rows = num_queries * GROUP
    if (num_rows <= min_rows) | (num_rows > max_rows) | (row_tile * BLOCK_M >= num_rows):
        return
    indexed: tl.constexpr = q_index_ptr is not None
    start, end, part, parts_end = parts_of(
        num_queries, num_keys, indexed, behind, ahead, chunk, SPLIT
    )
    at_part = k_start // SPLIT + seq + this_part
    part += this_part
    if part >= parts_end:
        return

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
    if k_index_ptr is not None:
        k_index_ptr += k_start
    past = num_keys - num_queries
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # fmt: off
    q, place, mask_rows = read_rows(
        row, num_rows, q_ptr, q_index_ptr, q_start, past, kv_head, stride_q_token, stride_q_head,
        stride_mask_q, stride_mask_head, scale, GROUP, HEAD_DIM, BLOCK_D,
    )
    first = tl.maximum(start, part * SPLIT) // BLOCK_N
    tiles = tl.cdiv(tl.minimum(end, (part + 1) * SPLIT), BLOCK_N) - first
    acc, top, total = empty(BLOCK_M, BLOCK_DV)
    acc, top, total = accumulate(
        acc, top, total, q, place, mask_rows, first, tiles, tiles, 0,
        num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
        stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, stride_mask_k,
        tl.abs(scale), softcap, behind, ahead, chunk,
        HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, EDGES=True, SAFE=False,
    )
    part_ptr += (at_part * num_kv_heads + kv_head) * max_rows * (VALUE_DIM + 2)
    if all_finite(acc):
        put(acc, top, total, row, num_rows, part_ptr, VALUE_DIM, BLOCK_DV)
    else:
        # again with care, in tiles so small that all this takes no registers from the above
        safe_first = first * (BLOCK_N // SAFE_KEYS)
        safe = tiles * (BLOCK_N // SAFE_KEYS)
        for at in range(0, BLOCK_M, SAFE_ROWS):
            few = row_tile * BLOCK_M + at + tl.arange(0, SAFE_ROWS)
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
            put(few_acc, few_top, few_total, few, num_rows, part_ptr, VALUE_DIM, BLOCK_DV)
    # fmt: on


def launch(
    given: Given, min_rows: int, tile_rows: int, lengths: Sequence[tuple[int, int]], num_keys: int
) -> None:
    """Attend within the sequences of `lengths`: of all that have more than `min_rows` rows.

    Args:
        given: the call.
        min_rows: rows, queries times group, that are too few.
        tile_rows: rows of a tile.
        lengths: queries and keys of each of those sequences.
        num_keys: keys of all sequences of the call.
    """
    max_rows = max(q for q, _ in lengths) * given.group
    num_parts = max(_most_parts(given, *each) for each in lengths)
    num_kv_heads, width = given.num_kv_heads, given.v.shape[-1]
    shape = num_keys // SPLIT + given.num_seqs, num_kv_heads, max_rows, width + 2
    parts = torch.empty(shape, dtype=torch.float32, device=given.q.device)
    if num_parts:
        tiles = decode_tiles(given, tile_rows)
        num_row_tiles = triton.cdiv(max_rows, tile_rows)
        # along one axis, as the others end at 65,535
        decode_kernel[(given.num_seqs * num_parts * num_row_tiles * num_kv_heads,)](
            *given.tensors,
            parts,
            num_row_tiles,
            num_parts,
            num_kv_heads,
            min_rows,
            max_rows,
            *given.numbers,
            *given.model,
            SPLIT=SPLIT,
            BLOCK_M=tile_rows,
            BLOCK_N=tiles.n,
            BLOCK_D=given.block_d,
            BLOCK_DV=given.block_dv,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    merge(parts, given, min_rows, max_rows)


def _most_parts(given: Given, num_queries: int, num_keys: int) -> int:
    """Return into how many parts the keys fall that a sequence's queries may see, at most."""
    parts = -(-num_keys // SPLIT)
    if given.q_index is not None:
        return parts
    if given.behind is not None and given.ahead is not None:
        reach = given.behind + num_queries + given.ahead
        parts = min(parts, -(-reach // SPLIT) + 1)
    if given.chunk is not None:
        parts = min(parts, -(-(num_queries + 2 * given.chunk) // SPLIT) + 1)
    return parts


def decode_tiles(given: Given, tile_rows: int) -> Tiles:
    """Return the shape of tiles for the width of a head and the dtype, and never for the batch."""
    width = max(given.block_d, given.block_dv)
    table = FLOAT32 if given.q.dtype == torch.float32 else HALF
    _, n, num_warps, num_stages = table[max(64, width)]
    return Tiles(tile_rows, n, num_warps, num_stages)


# by the width of a head
HALF = {
    64: Tiles(MIN_BLOCK, 64, 4, 3),
    128: Tiles(MIN_BLOCK, 64, 4, 3),
    256: Tiles(MIN_BLOCK, 32, 8, 3),
    512: Tiles(MIN_BLOCK, 32, 8, 2),
}
FLOAT32 = {
    64: Tiles(MIN_BLOCK, 32, 8, 2),
    128: Tiles(MIN_BLOCK, 16, 8, 2),
    256: Tiles(MIN_BLOCK, 16, 8, 2),
    512: Tiles(MIN_BLOCK, 16, 8, 2),
}
