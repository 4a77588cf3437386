"""The kernel of attention: its arguments, and its launch.

A program attends from a tile of rows to all their keys, and writes the output (see `prefill`); or
to one split of the keys, and writes partial results (see `decode`).
"""

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.attention_inputs import NUMBERS, UNALIGNED, AttentionInputs
from rope_core.kernels.attention_output import OUTPUT_NUMBERS, AttentionOutput
from rope_core.kernels.decode import attend_split
from rope_core.kernels.launch_args import AttentionArgs
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.prefill import attend_tile
from rope_core.kernels.tile_configs import Tile
from rope_core.kernels.tile_scheduler import ProgramRange, Schedule


@triton.jit
def attend_program(
    inputs,
    output,
    part_ptr,
    work_ptr,
    programs_offset,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to one split of the keys if there are partial results, else to all keys."""
    # fmt: off
    if part_ptr is None:
        attend_tile(inputs, output, work_ptr, programs_offset, BLOCK_M, BLOCK_N, PRECISION)
    else:
        attend_split(inputs, part_ptr, work_ptr, programs_offset, BLOCK_M, BLOCK_N, PRECISION)
    # fmt: on


# fmt: off
@triton.jit(
    do_not_specialize=[*NUMBERS, *OUTPUT_NUMBERS, "programs_offset"],
    do_not_specialize_on_alignment=[*UNALIGNED, "lse_ptr", "sinks_ptr", "work_ptr"],
)
def attention_kernel(
    # the arguments of AttentionInputs and AttentionOutput, in their order
    q_ptr, k_ptr, v_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, block_table_ptr, mask_ptr,
    q_index_ptr, k_index_ptr, segment_ptr,
    out_ptr, lse_ptr, sinks_ptr,  # None where part_ptr is not
    part_ptr,  # float32, see `split_kv.partial_rows`; or None
    work_ptr,  # int32, see Schedule.table
    num_kv_heads: tl.int32, group_size: tl.int32,
    stride_q_token: tl.int64, stride_q_head: tl.int64,
    stride_k_page: tl.int64, stride_k_slot: tl.int64, stride_k_head: tl.int64,
    stride_v_page: tl.int64, stride_v_slot: tl.int64, stride_v_head: tl.int64,
    stride_block_table: tl.int64,
    stride_mask_seq: tl.int64, stride_mask_head: tl.int64, stride_mask_q: tl.int64,
    is_packed_mask: tl.int32, scale: tl.float32, softcap: tl.float32,
    window_left: tl.int64, window_right: tl.int64, chunk: tl.int64,
    has_sinks: tl.int32, stride_out_token: tl.int64, stride_out_head: tl.int64,
    programs_offset: tl.int32,
    STRIDE_UNIT: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):
    """Call `attend_program`: Triton 3.6 keeps the constants of a tuple only in a call."""
    attend_program(
        AttentionInputs(
            q_ptr, k_ptr, v_ptr, cu_seqlens_q_ptr, cu_seqlens_k_ptr, block_table_ptr, mask_ptr,
            q_index_ptr, k_index_ptr, segment_ptr,
            num_kv_heads, group_size, stride_q_token, stride_q_head,
            stride_k_page, stride_k_slot, stride_k_head,
            stride_v_page, stride_v_slot, stride_v_head, stride_block_table,
            stride_mask_seq, stride_mask_head, stride_mask_q, is_packed_mask,
            scale, softcap, window_left, window_right, chunk,
            STRIDE_UNIT, HEAD_DIM, VALUE_DIM, PAGE_SIZE, SOFTCAP, BLOCK_D, BLOCK_DV,
        ),
        AttentionOutput(
            out_ptr, lse_ptr, sinks_ptr, has_sinks, num_kv_heads * group_size,
            stride_out_token, stride_out_head, STRIDE_UNIT, VALUE_DIM,
        ),
        part_ptr, work_ptr, programs_offset, BLOCK_M, BLOCK_N, PRECISION,
    )
# fmt: on


LAUNCHER = Launcher(attention_kernel, num_tensors=15)


def attention_launch(
    args: AttentionArgs,
    schedule: Schedule,
    programs: ProgramRange,
    tile: Tile,
    parts: Tensor | None = None,
) -> KernelLaunch:
    """Return the launch that attends from some of the sequences.

    Args:
        args: arguments of the call.
        schedule: its programs.
        programs: which of them are launched.
        tile: how the kernel is cut.
        parts: float32 `[partial rows, Hkv, Dv + 4]`, where splits write their results; None to
            attend to all keys and write the output.
    """
    outputs = (*args.output, None) if parts is None else (None, None, None, parts)
    return KernelLaunch(
        LAUNCHER,
        (programs.num_programs * args.num_kv_heads,),
        (*args.tensors, *outputs, schedule.table),
        (*args.numbers, *args.output_numbers, programs.offset),
        args.constants | tile.constants(),
        tile.num_warps,
        tile.num_stages,
    )
