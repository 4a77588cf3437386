"""Partial results of a sequence whose keys are split into parts, and how they are merged."""

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.launch_args import AttentionArgs, block_of
from rope_core.kernels.launcher import KernelLaunch, Launcher
from rope_core.kernels.online_softmax import exp_score, init_state, store_output
from rope_core.kernels.tile_scheduler import (
    FIRST_MERGE,
    FIRST_PART_ROW,
    MERGED_ROWS,
    NUM_PARTS,
    WorkList,
    find_sequence,
)

STATISTICS = tl.constexpr(4)
"""Numbers after the values of a partial row: m_i, l_i, and two that align rows to 16 bytes."""

MERGED_PARTS = tl.constexpr(8)
"""Parts that are merged at a time."""


@triton.jit
def store_part(
    acc,  # [M, BLOCK_DV] float32
    m_i,  # [M] float32
    l_i,  # [M] float32
    row,  # [M]: query * group + head of the group
    num_rows,
    part_ptr,  # to the first row of this part and head
    stride_row,  # in elements
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):
    """Write acc, m_i and l_i of the rows of a part."""
    exists = row < num_rows
    at = part_ptr + row.to(tl.int64) * stride_row
    d = tl.arange(0, BLOCK_DV)
    tl.store(at[:, None] + d[None, :], acc, mask=exists[:, None] & (d < VALUE_DIM)[None, :])
    tl.store(at + VALUE_DIM, m_i, mask=exists)
    tl.store(at + VALUE_DIM + 1, l_i, mask=exists)


@triton.jit(
    do_not_specialize=[
        *("num_kv_heads", "group", "natural"),
        *("has_sinks", "stride_out_token", "stride_out_head", "programs_offset"),
    ],
    do_not_specialize_on_alignment=["cu_seqlens_q_ptr", "work_ptr", "lse_ptr", "sinks_ptr"],
)
def merge_kernel(
    part_ptr,  # [part rows, Hkv, VALUE_DIM + STATISTICS] float32
    cu_seqlens_q_ptr,  # [N + 1] int32
    out_ptr,  # [Tq, H, VALUE_DIM]
    lse_ptr,  # [Tq, H] float32, contiguous
    sinks_ptr,  # [H] float32
    work_ptr,  # int32: records [N, RECORD], and the sequences of programs
    num_kv_heads: tl.int32,
    group: tl.int32,
    natural: tl.int32,  # 1 where scores are natural, 0 where they are in log 2
    has_sinks: tl.int32,
    stride_out_token: tl.int64,  # in units of UNIT elements
    stride_out_head: tl.int64,
    programs_offset: tl.int32,
    UNIT: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    MERGED_ROWS: tl.constexpr,
):
    """Merge the parts of MERGED_ROWS rows of a sequence for one head of keys, in their order."""
    program = tl.program_id(0)
    kv_head = (program % num_kv_heads).to(tl.int64)
    program //= num_kv_heads
    seq, record_ptr = find_sequence(program, work_ptr, programs_offset)
    first_row = (program - tl.load(record_ptr + FIRST_MERGE)) * MERGED_ROWS
    num_parts = tl.load(record_ptr + NUM_PARTS)
    first_part_row = tl.load(record_ptr + FIRST_PART_ROW).to(tl.int64)
    q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
    num_rows = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32) * group
    if first_row >= num_rows:
        return
    row = first_row + tl.arange(0, MERGED_ROWS)
    in_rows = row < num_rows
    stride_row = num_kv_heads.to(tl.int64) * (VALUE_DIM + STATISTICS)
    stride_part = stride_row * num_rows
    rows_ptr = part_ptr + kv_head * (VALUE_DIM + STATISTICS) + (first_part_row + row) * stride_row

    acc, m_i, l_i = init_state(MERGED_ROWS, BLOCK_DV)
    for start in range(0, num_parts, MERGED_PARTS):
        part = start + tl.arange(0, MERGED_PARTS)
        # [MERGED_ROWS, MERGED_PARTS]
        at = rows_ptr[:, None] + part[None, :] * stride_part
        exists = in_rows[:, None] & (part < num_parts)[None, :]
        part_m = tl.load(at + VALUE_DIM, mask=exists, other=-float("inf"))
        m_i = tl.maximum(m_i, tl.max(part_m, 1))
    shift = tl.where(m_i == -float("inf"), 0.0, m_i)

    d = tl.arange(0, BLOCK_DV)
    for start in range(0, num_parts, MERGED_PARTS):
        part = start + tl.arange(0, MERGED_PARTS)
        at = rows_ptr[:, None] + part[None, :] * stride_part
        exists = in_rows[:, None] & (part < num_parts)[None, :]
        part_m = tl.load(at + VALUE_DIM, mask=exists, other=-float("inf"))
        part_l = tl.load(at + VALUE_DIM + 1, mask=exists, other=0.0)
        # [MERGED_ROWS, MERGED_PARTS, BLOCK_DV]
        in_part = exists[:, :, None] & (d < VALUE_DIM)[None, None, :]
        values = tl.load(at[:, :, None] + d[None, None, :], mask=in_part, other=0.0)
        weights = exp_score(part_m - shift[:, None], natural != 0)
        l_i += tl.sum(weights * part_l, 1)
        acc += tl.sum(weights[:, :, None] * values, 1)
    # fmt: off
    store_output(
        acc, m_i, l_i, row, num_rows, out_ptr, lse_ptr, sinks_ptr, has_sinks, natural != 0,
        q_start, kv_head, num_kv_heads, group, stride_out_token, stride_out_head, UNIT,
        VALUE_DIM, BLOCK_DV,
    )
    # fmt: on


LAUNCHER = Launcher(merge_kernel, num_tensors=6)


def merge_launch(args: AttentionArgs, work: WorkList, parts: Tensor) -> KernelLaunch:
    """Return the launch that merges the parts of all sequences whose keys are split.

    Args:
        args: arguments of the call.
        work: its work list.
        parts: float32 `[part rows, Hkv, Dv + 4]`.
    """
    return KernelLaunch(
        LAUNCHER,
        (work.merge.total * args.num_kv_heads,),
        (parts, args.cu_seqlens_q, *args.output, work.table),
        (
            *(args.num_kv_heads, args.group, int(args.mask is not None)),
            *args.output_numbers,
            work.merge.offset,
        ),
        {
            "UNIT": args.unit,
            "VALUE_DIM": args.value_dim,
            "BLOCK_DV": block_of(args.value_dim),
            "MERGED_ROWS": MERGED_ROWS,
        },
        num_warps=4,
        num_stages=3,
    )
