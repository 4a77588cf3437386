"""Attention from few queries: keys are split into parts, which are attended to in parallel.

All queries of a sequence times the heads of a group are rows of tiles, so that a key is read once
for all rows of a tile. A program attends from one tile of rows to one part of the keys; `split_kv`
merges the parts.
"""

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.launch_args import SHARED_NUMBERS, SHARED_UNALIGNED, AttentionArgs
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.masking import row_key_range
from rope_core.kernels.online_softmax import (
    SAFE_KEYS,
    SAFE_ROWS,
    accumulate,
    all_finite,
    init_state,
    load_queries,
)
from rope_core.kernels.split_kv import STATISTICS, store_part
from rope_core.kernels.tile_configs import Tile
from rope_core.kernels.tile_scheduler import (
    FIRST_PART_ROW,
    FIRST_PROGRAM,
    PART_LENGTH,
    START,
    Programs,
    WorkList,
    find_sequence,
)


@triton.jit(
    do_not_specialize=[*SHARED_NUMBERS, "programs_offset"],
    do_not_specialize_on_alignment=[*SHARED_UNALIGNED, "work_ptr"],
)
def decode_kernel(
    q_ptr,  # [Tq, H, HEAD_DIM]
    k_ptr,  # [Tk, Hkv, HEAD_DIM], or pages [P, Hkv, PAGE_SIZE, HEAD_DIM]
    v_ptr,  # as k, VALUE_DIM wide
    cu_seqlens_q_ptr,  # [N + 1] int32
    cu_seqlens_k_ptr,  # [N + 1] int32
    table_ptr,  # [N, blocks] int32, or None
    mask_ptr,  # uint8 or float32 [sequences, heads, queries, keys], or None
    q_index_ptr,  # [Tq] int64, or None
    k_index_ptr,  # [Tk] int64, or None
    part_ptr,  # [part rows, Hkv, VALUE_DIM + STATISTICS] float32
    work_ptr,  # int32: records [N, RECORD], and the sequences of programs
    num_kv_heads: tl.int32,
    group: tl.int32,
    stride_q_token: tl.int64,  # these of q, k and v in units of UNIT elements
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
    """Attend from a tile of rows of a sequence to one part of its keys."""
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    seq, record_ptr = find_sequence(program, work_ptr, programs_offset)
    program -= tl.load(record_ptr + FIRST_PROGRAM)
    part_length = tl.load(record_ptr + PART_LENGTH)
    start = tl.load(record_ptr + START)
    first_part_row = tl.load(record_ptr + FIRST_PART_ROW).to(tl.int64)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    k_start = tl.load(cu_seqlens_k_ptr + seq).to(tl.int64)
    num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
    num_keys = (tl.load(cu_seqlens_k_ptr + seq + 1) - k_start).to(tl.int32)
    num_rows = num_queries * group
    if num_rows == 0:
        return  # its lengths on the device are 0: see `backends.repair`
    num_row_tiles = tl.cdiv(num_rows, BLOCK_M)
    part = program // num_row_tiles
    row_tile = program % num_row_tiles

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
    if indexed:
        k_index_ptr += k_start
    context_len = num_keys - num_queries
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    # fmt: off
    q, position, mask_rows = load_queries(
        row, num_rows, q_ptr, q_index_ptr, q_start, context_len, kv_head, group,
        stride_q_token, stride_q_head, stride_mask_q, stride_mask_head, scale,
        UNIT, HEAD_DIM, BLOCK_D,
    )
    first_key, last_key = row_key_range(position, num_keys, behind, ahead, chunk, indexed)
    part_start = (start // part_length + part) * part_length
    first = tl.maximum(start, part_start) // BLOCK_N
    tiles = tl.cdiv(tl.minimum(num_keys, part_start + part_length), BLOCK_N) - first
    acc, m_i, l_i = init_state(BLOCK_M, BLOCK_DV)
    acc, m_i, l_i = accumulate(
        acc, m_i, l_i, q, first_key, last_key, mask_rows, first, tiles, tiles, 0,
        num_keys, k_ptr, v_ptr, table_ptr, k_index_ptr, mask_ptr,
        stride_k_page, stride_k_slot, stride_v_page, stride_v_slot, tl.abs(scale), softcap,
        UNIT, HEAD_DIM, VALUE_DIM, BLOCK_N, BLOCK_D, BLOCK_DV, PAGE_SIZE, SOFTCAP, PRECISION,
        EDGES=True, SAFE=False,
    )
    stride_row = num_kv_heads.to(tl.int64) * (VALUE_DIM + STATISTICS)
    part_ptr += kv_head * (VALUE_DIM + STATISTICS)
    part_ptr += (first_part_row + part.to(tl.int64) * num_rows) * stride_row
    if all_finite(acc):
        store_part(acc, m_i, l_i, row, num_rows, part_ptr, stride_row, VALUE_DIM, BLOCK_DV)
    else:
        # once more, safe for values that are not finite; in tiles so small that this branch takes
        # no more registers than the one above
        safe_first = first * (BLOCK_N // SAFE_KEYS)
        safe = tiles * (BLOCK_N // SAFE_KEYS)
        for at in range(0, BLOCK_M, SAFE_ROWS):
            few = row_tile * BLOCK_M + at + tl.arange(0, SAFE_ROWS)
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
            store_part(
                few_acc, few_m, few_l, few, num_rows, part_ptr, stride_row, VALUE_DIM, BLOCK_DV,
            )
    # fmt: on


LAUNCHER = Launcher(decode_kernel, num_tensors=11)


def decode_launch(
    args: AttentionArgs, work: WorkList, programs: Programs, parts: Tensor, tile: Tile
) -> KernelLaunch:
    """Return the launch that attends to parts of keys.

    Args:
        args: arguments of the call.
        work: its work list.
        programs: which of its programs are launched, `work.few` or `work.some`.
        parts: float32 `[part rows, Hkv, Dv + 4]`, written.
        tile: how the kernel is cut.
    """
    return KernelLaunch(
        LAUNCHER,
        (programs.total * args.num_kv_heads,),
        (*args.tensors, parts, work.table),
        (*args.numbers, programs.offset),
        args.constants() | tile.constants(),
        tile.num_warps,
        tile.num_stages,
    )
