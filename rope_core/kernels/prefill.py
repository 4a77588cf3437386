"""Attention from many queries: a program has a tile of a sequence's rows and loops over its keys.

The rows of a tile are queries times the heads of a group, so that a key is read once for its group.
"""

import triton
import triton.language as tl

from rope_core.kernels.launch_args import SHARED_NUMBERS, SHARED_UNALIGNED, AttentionArgs
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.masking import indexed_key_range, row_key_range, tile_key_range
from rope_core.kernels.online_softmax import (
    SAFE_KEYS,
    SAFE_ROWS,
    accumulate,
    all_finite,
    init_state,
    load_queries,
    store_output,
)
from rope_core.kernels.tile_configs import Tile
from rope_core.kernels.tile_scheduler import FIRST_PROGRAM, WorkList, find_sequence

SCAN = tl.constexpr(256)
"""Key positions that are read at a time to find the keys that a tile sees."""


@triton.jit(
    do_not_specialize=[
        *(*SHARED_NUMBERS, "programs_offset"),
        *("has_sinks", "stride_out_token", "stride_out_head"),
    ],
    do_not_specialize_on_alignment=[*SHARED_UNALIGNED, "lse_ptr", "sinks_ptr", "work_ptr"],
)
def prefill_kernel(
    q_ptr,  # [Tq, H, HEAD_DIM]
    k_ptr,  # [Tk, Hkv, HEAD_DIM], or pages [P, Hkv, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # as k, VALUE_DIM wide
    cu_seqlens_q_ptr,  # [N + 1] int32
    cu_seqlens_k_ptr,  # [N + 1] int32
    table_ptr,  # [N, blocks] int32, or None
    mask_ptr,  # uint8 or float32 [sequences, heads, queries, keys], or None
    q_index_ptr,  # [Tq] int64, or None
    k_index_ptr,  # [Tk] int64, or None
    out_ptr,  # [Tq, H, VALUE_DIM]
    lse_ptr,  # [Tq, H] float32, contiguous
    sinks_ptr,  # [H] float32
    work_ptr,  # int32: records [N, RECORD], and the sequences of programs
    num_kv_heads: tl.int32,
    group: tl.int32,
    stride_q_token: tl.int64,  # these of q, k, v and out in units of UNIT elements
    stride_q_head: tl.int64,
    stride_k_page: tl.int64,
    stride_k_slot: tl.int64,
    stride_k_head: tl.int64,
    stride_v_page: tl.int64,
    stride_v_slot: tl.int64,
    stride_v_head: tl.int64,
    stride_table: tl.int64,
    stride_mask_seq: tl.int64,
    stride_mask_head: tl.int64,
    stride_mask_q: tl.int64,
    packed_mask: tl.int32,  # 1 where all sequences share the axes of the mask, else 0
    scale: tl.float32,
    softcap: tl.float32,  # not read without SOFTCAP
    behind: tl.int64,
    ahead: tl.int64,
    chunk: tl.int64,
    has_sinks: tl.int32,
    stride_out_token: tl.int64,
    stride_out_head: tl.int64,
    programs_offset: tl.int32,
    UNIT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two, >= HEAD_DIM
    BLOCK_DV: tl.constexpr,  # power of two, >= VALUE_DIM
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend from one tile of rows, queries times the heads of a group, to their keys."""
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    seq, record_ptr = find_sequence(program, work_ptr, programs_offset)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    k_start = tl.load(cu_seqlens_k_ptr + seq).to(tl.int64)
    num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
    num_keys = (tl.load(cu_seqlens_k_ptr + seq + 1) - k_start).to(tl.int32)
    num_rows = num_queries * group
    # the last tiles of a causal sequence are the longest: they go first
    tile = tl.cdiv(num_rows, BLOCK_M) - 1 - (program - tl.load(record_ptr + FIRST_PROGRAM))
    if tile < 0:
        return  # its lengths on the device are 0: see `backends.repair`

    k_ptr += kv_head * stride_k_head * UNIT
    v_ptr += kv_head * stride_v_head * UNIT
    if table_ptr is not None:
        table_ptr += seq * stride_table
    else:
        k_ptr += k_start * stride_k_slot * UNIT
        v_ptr += k_start * stride_v_slot * UNIT
    if mask_ptr is not None:
        mask_ptr += seq * stride_mask_seq
        mask_ptr += packed_mask * (q_start * stride_mask_q + k_start)
    indexed: tl.constexpr = k_index_ptr is not None
    context_len = num_keys - num_queries
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # fmt: off
    q, position, mask_rows = load_queries(
        row, num_rows, q_ptr, q_index_ptr, q_start, context_len, kv_head, group,
        stride_q_token, stride_q_head, stride_mask_q, stride_mask_head, scale,
        UNIT, HEAD_DIM, BLOCK_D,
    )
    first_key, last_key = row_key_range(position, num_keys, behind, ahead, chunk, indexed)

    has_inner: tl.constexpr = (mask_ptr is None) & (not indexed)
    if indexed:
        k_index_ptr += k_start
        low = tl.min(tl.where(row < num_rows, position, 2**63 - 1), 0)
        high = tl.max(tl.where(row < num_rows, position, -(2**63)), 0)
        start, end = indexed_key_range(
            low, high, k_index_ptr, num_keys, behind, ahead, chunk, SCAN
        )
    else:
        low = context_len + tile * BLOCK_M // group
        high = context_len + (tl.minimum(tile * BLOCK_M + BLOCK_M, num_rows) - 1) // group
        start, end, inner_start, inner_end = tile_key_range(
            low, high, num_keys, behind, ahead, chunk
        )
    first = start // BLOCK_N
    last = tl.cdiv(end, BLOCK_N)
    # tiles of keys: num_before with hidden keys, then num_inner that all rows see, then others
    num_before = last - first
    num_inner = last * 0
    if has_inner:
        inner = tl.minimum(tl.maximum(tl.cdiv(inner_start, BLOCK_N), first), last)
        num_before = inner - first
        num_inner = tl.maximum(tl.minimum(inner_end // BLOCK_N, last) - inner, 0)

    acc, m_i, l_i = init_state(BLOCK_M, BLOCK_DV)
    acc, m_i, l_i = accumulate(
        acc, m_i, l_i, q, first_key, last_key, mask_rows,
        first, last - first - num_inner, num_before, num_inner,
        num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
        stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, tl.abs(scale), softcap,
        UNIT, HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, SOFTCAP, PRECISION,
        EDGES=True, SAFE=False,
    )
    if has_inner:
        acc, m_i, l_i = accumulate(
            acc, m_i, l_i, q, first_key, last_key, mask_rows,
            first + num_before, num_inner, num_inner, 0,
            num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
            stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, tl.abs(scale), softcap,
            UNIT, HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, SOFTCAP, PRECISION,
            EDGES=False, SAFE=False,
        )
    # loaded again, so that it need not stay in registers during the loops
    tile = tl.cdiv(num_rows, BLOCK_M) - 1 - (program - tl.load(record_ptr + FIRST_PROGRAM))
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    if all_finite(acc):
        store_output(
            acc, m_i, l_i, row, num_rows, out_ptr, lse_ptr, sinks_ptr, has_sinks,
            mask_ptr is not None, q_start, kv_head, num_kv_heads, group, stride_out_token,
            stride_out_head, UNIT, VALUE_DIM, BLOCK_DV,
        )
    else:
        # once more, safe for values that are not finite; in tiles so small that this branch takes
        # no more registers than the one above
        safe_first = first * (BLOCK_N // SAFE_KEYS)
        safe = (last - first) * (BLOCK_N // SAFE_KEYS)
        for at in range(0, BLOCK_M, SAFE_ROWS):
            few = tile * BLOCK_M + at + tl.arange(0, SAFE_ROWS)
            few_q, few_position, few_mask = load_queries(
                few, num_rows, q_ptr, q_index_ptr, q_start, context_len, kv_head, group,
                stride_q_token, stride_q_head, stride_mask_q, stride_mask_head, scale,
                UNIT, HEAD_DIM, BLOCK_D,
            )
            few_first, few_last = row_key_range(
                few_position, num_keys, behind, ahead, chunk, indexed
            )
            few_acc, few_m, few_l = init_state(SAFE_ROWS, BLOCK_DV)
            few_acc, few_m, few_l = accumulate(
                few_acc, few_m, few_l, few_q, few_first, few_last, few_mask, safe_first, safe,
                safe, 0, num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
                stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, tl.abs(scale), softcap,
                UNIT, HEAD_DIM, VALUE_DIM, SAFE_KEYS, BLOCK_D, BLOCK_DV, PAGE_SIZE, SOFTCAP,
                PRECISION, EDGES=True, SAFE=True,
            )
            store_output(
                few_acc, few_m, few_l, few, num_rows, out_ptr, lse_ptr, sinks_ptr, has_sinks,
                mask_ptr is not None, q_start, kv_head, num_kv_heads, group, stride_out_token,
                stride_out_head, UNIT, VALUE_DIM, BLOCK_DV,
            )
    # fmt: on


LAUNCHER = Launcher(prefill_kernel, num_tensors=13)


def prefill_launch(args: AttentionArgs, work: WorkList, tile: Tile) -> KernelLaunch:
    """Return the launch that attends from all sequences of many rows.

    Args:
        args: arguments of the call.
        work: its work list.
        tile: how the kernel is cut.
    """
    return KernelLaunch(
        LAUNCHER,
        (work.prefill.total * args.num_kv_heads,),
        (*args.tensors, *args.output, work.table),
        (*args.numbers, *args.output_numbers, work.prefill.offset),
        args.constants() | tile.constants(),
        tile.num_warps,
        tile.num_stages,
    )
