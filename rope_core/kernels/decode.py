"""Attention from few queries: a program has a tile of rows and one split of the keys.

FlashDecoding (Dao et al., 2023): splits are attended to in parallel, and `merge` merges them. See
`attention_inputs` for the rows of a tile.
"""

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.attention_inputs import NUMBERS, UNALIGNED, AttentionInputs, load_sequence
from rope_core.kernels.launch_args import AttentionArgs
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.online_softmax import (
    NONFINITE_BLOCK,
    all_finite,
    attend_rows,
    attend_rows_nonfinite,
)
from rope_core.kernels.split_kv import partial_rows, store_partial
from rope_core.kernels.tile_configs import Tile
from rope_core.kernels.tile_scheduler import (
    FIRST_KEY,
    FIRST_PARTIAL_ROW,
    FIRST_PROGRAM,
    SPLIT_LENGTH,
    ProgramRange,
    Schedule,
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


# fmt: off
@triton.jit(
    do_not_specialize=[*NUMBERS, "programs_offset"],
    do_not_specialize_on_alignment=[*UNALIGNED, "work_ptr"],
)
def decode_kernel(
    # the arguments of AttentionInputs, in their order
    q_ptr, k_ptr, v_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, block_table_ptr, mask_ptr,
    q_index_ptr, k_index_ptr,
    part_ptr,  # float32, see `split_kv.partial_rows`
    work_ptr,  # int32, see Schedule.table
    num_kv_heads: tl.int32, group_size: tl.int32,
    stride_q_token: tl.int64, stride_q_head: tl.int64,
    stride_k_page: tl.int64, stride_k_slot: tl.int64, stride_k_head: tl.int64,
    stride_v_page: tl.int64, stride_v_slot: tl.int64, stride_v_head: tl.int64,
    stride_block_table: tl.int64,
    stride_mask_seq: tl.int64, stride_mask_head: tl.int64, stride_mask_q: tl.int64,
    is_packed_mask: tl.int32, scale: tl.float32, softcap: tl.float32,
    window_left: tl.int64, window_right: tl.int64, chunk: tl.int64,
    programs_offset: tl.int32,
    STRIDE_UNIT: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):
    """Pass the arguments to `attend_split`; see `prefill_kernel`."""
    attend_split(
        AttentionInputs(
            q_ptr, k_ptr, v_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, block_table_ptr, mask_ptr,
            q_index_ptr, k_index_ptr, num_kv_heads, group_size, stride_q_token, stride_q_head,
            stride_k_page, stride_k_slot, stride_k_head, stride_v_page, stride_v_slot,
            stride_v_head, stride_block_table, stride_mask_seq, stride_mask_head, stride_mask_q,
            is_packed_mask, scale, softcap, window_left, window_right, chunk,
            STRIDE_UNIT, HEAD_DIM, VALUE_DIM, PAGE_SIZE, SOFTCAP, BLOCK_D, BLOCK_DV,
        ),
        part_ptr, work_ptr, programs_offset, BLOCK_M, BLOCK_N, PRECISION,
    )
# fmt: on


LAUNCHER = Launcher(decode_kernel, num_tensors=11)


def decode_launch(
    args: AttentionArgs, schedule: Schedule, programs: ProgramRange, parts: Tensor, tile: Tile
) -> KernelLaunch:
    """Return the launch that attends to splits of keys.

    Args:
        args: arguments of the call.
        schedule: its programs.
        programs: which of them are launched, `schedule.decode` or `schedule.append`.
        parts: float32 `[partial rows, Hkv, Dv + 4]`, written.
        tile: how the kernel is cut.
    """
    return KernelLaunch(
        LAUNCHER,
        (programs.num_programs * args.num_kv_heads,),
        (*args.tensors, parts, schedule.table),
        (*args.numbers, programs.offset),
        args.constants | tile.constants(),
        tile.num_warps,
        tile.num_stages,
    )
