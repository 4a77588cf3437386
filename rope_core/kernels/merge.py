"""Attention over parts of the keys, merged into attention over all of them.

One kernel merges the splits of `decode` (FlashDecoding), and partial answers whose log-sum-exp is
known (the merge of FlashInfer's cascade attention).
"""

from functools import lru_cache

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.attention_output import OUTPUT_NUMBERS, AttentionOutput, store_output
from rope_core.kernels.block_sizes import cdiv, next_power_of_2, stride_unit, strides
from rope_core.kernels.launch_args import AttentionArgs
from rope_core.kernels.launcher import KernelLaunch, Launcher, LaunchPlan, launch_all
from rope_core.kernels.online_softmax import exp_score
from rope_core.kernels.split_kv import partial_rows
from rope_core.kernels.tile_scheduler import (
    FIRST_MERGE_PROGRAM,
    FIRST_PARTIAL_ROW,
    MERGE_ROWS,
    NUM_SPLITS,
    Schedule,
    find_program,
)

THREADS = 128

VECTOR_BYTES = 16
"""Bytes that a thread reads at once."""

Shape = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes and strides of a tensor."""


# fmt: off
@triton.jit(
    do_not_specialize=[
        *("num_parts", "num_rows", "stride_lse_part", "stride_x_part", "stride_x_row"),
        *("num_kv_heads", "group_size", "natural", *OUTPUT_NUMBERS, "programs_offset"),
    ],
    do_not_specialize_on_alignment=[
        *("lse_ptr", "out_lse_ptr", "sinks_ptr", "cu_seqlens_q_ptr", "work_ptr")
    ],
)
def merge_kernel(
    x_ptr,  # [parts, rows, VALUE_DIM], last stride 1; for splits see `split_kv.partial_rows`
    lse_ptr,  # [parts, rows] float32, rows contiguous; None for splits
    out_ptr,  # [Tq, H, VALUE_DIM], or [rows, VALUE_DIM]
    out_lse_ptr,  # [Tq, H] float32, contiguous, or [rows]
    sinks_ptr,  # [H] float32; only for splits
    cu_seqlens_q_ptr,  # int32 [N + 1]; only for splits
    work_ptr,  # int32, see Schedule.table; only for splits
    num_parts: tl.int32, num_rows: tl.int64,  # these five are not read for splits
    stride_lse_part: tl.int64,  # in elements; the other strides are in units of STRIDE_UNIT
    stride_x_part: tl.int64, stride_x_row: tl.int64,
    num_kv_heads: tl.int32, group_size: tl.int32,
    natural: tl.int32,  # 1 where scores are natural, 0 where they are times log2(e)
    has_sinks: tl.int32, stride_out_token: tl.int64, stride_out_head: tl.int64,
    programs_offset: tl.int32,
    STRIDE_UNIT: tl.constexpr, VALUE_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,  # rows
    GROUPS: tl.constexpr, GROUP: tl.constexpr,  # powers of two, GROUPS * GROUP >= VALUE_DIM
) -> None:
    """Merge the parts of BLOCK_M rows, in their order.

    A thread has groups of elements of a row and computes their weights itself, so that no thread
    waits for another.
    """
    IS_SPLIT: tl.constexpr = work_ptr is not None
    # [1, GROUPS], [1, GROUPS, GROUP]
    group = tl.arange(0, GROUPS)[None, :]
    d = group[:, :, None] * GROUP + tl.arange(0, GROUP)[None, None, :]
    # [BLOCK_M, GROUPS]
    row = tl.arange(0, BLOCK_M)[:, None] + tl.zeros_like(group)
    if IS_SPLIT:
        program, kv_head, seq, record_ptr = find_program(work_ptr, programs_offset, num_kv_heads)
        q_start = tl.load(cu_seqlens_q_ptr + seq).to(tl.int64)
        num_queries = (tl.load(cu_seqlens_q_ptr + seq + 1) - q_start).to(tl.int32)
        num_rows = num_queries * group_size
        row += (program - tl.load(record_ptr + FIRST_MERGE_PROGRAM)) * BLOCK_M
        token, head = q_start + row // group_size, kv_head * group_size + row % group_size
        first_partial_row = tl.load(record_ptr + FIRST_PARTIAL_ROW).to(tl.int64)
        x_ptr, stride_row = partial_rows(x_ptr, first_partial_row, kv_head, num_kv_heads, VALUE_DIM)
        x_row = x_ptr + row.to(tl.int64) * stride_row
        m_row = x_row + VALUE_DIM
        x_part = stride_row * num_rows
        m_part = x_part
        # `backends.repair` sets the lengths on the device to 0
        num_parts = tl.where(num_rows > 0, tl.load(record_ptr + NUM_SPLITS), 0)
    else:
        row = row.to(tl.int64) + tl.program_id(0).to(tl.int64) * BLOCK_M
        token, head = row, tl.zeros_like(row)
        x_row = x_ptr + row * (stride_x_row.to(tl.int64) * STRIDE_UNIT)
        m_row = lse_ptr + row
        x_part = stride_x_part.to(tl.int64) * STRIDE_UNIT
        m_part = stride_lse_part.to(tl.int64)
    exists = row < num_rows

    m_i = tl.full([BLOCK_M, GROUPS], -float("inf"), tl.float32)
    for part in tl.range(0, num_parts, loop_unroll_factor=8):
        m_i = tl.maximum(m_i, tl.load(m_row + part * m_part, mask=exists, other=0.0))
    m_i = tl.where(tl.abs(m_i) == float("inf"), 0.0, m_i)

    l_i = tl.zeros([BLOCK_M, GROUPS], tl.float32)
    # [BLOCK_M, GROUPS, GROUP]
    acc = tl.zeros([BLOCK_M, GROUPS, GROUP], tl.float32)
    for part in tl.range(0, num_parts, loop_unroll_factor=8 if IS_SPLIT else 1):
        # [BLOCK_M, GROUPS]
        part_ptr = m_row + part * m_part
        part_m = tl.load(part_ptr, mask=exists, other=-float("inf"))
        alpha = exp_score(part_m - m_i, natural != 0)
        if IS_SPLIT:
            l_i += alpha * tl.load(part_ptr + 1, mask=exists, other=0.0)
            is_read = exists
        else:
            l_i += alpha
            # do not read a part of weight 0: it may hold anything, and 0 * NaN is NaN
            is_read = alpha != 0
        # [BLOCK_M, GROUPS, GROUP]
        x_mask = is_read[:, :, None] & (d < VALUE_DIM)
        x = tl.load(x_row[:, :, None] + part * x_part + d, mask=x_mask, other=0.0)
        acc += alpha[:, :, None] * x.to(tl.float32)
    store_output(
        acc, m_i, l_i, natural != 0, token, head, d, exists, exists & (group == 0),
        AttentionOutput(
            out_ptr, out_lse_ptr, sinks_ptr, has_sinks, num_kv_heads * group_size,
            stride_out_token, stride_out_head, STRIDE_UNIT, VALUE_DIM,
        ),
    )
# fmt: on


LAUNCHER = Launcher(merge_kernel, num_tensors=7)


def merge_launch(args: AttentionArgs, schedule: Schedule, parts: Tensor) -> KernelLaunch:
    """Return the launch that merges the splits of all sequences whose keys are split.

    Args:
        args: arguments of the call.
        schedule: its programs.
        parts: float32 `[partial rows, Hkv, Dv + 4]`.
    """
    out, lse, sinks = args.output
    return KernelLaunch(
        LAUNCHER,
        (schedule.merge.num_programs * args.num_kv_heads,),
        (parts, None, out, lse, sinks, args.cu_seqlens_q, schedule.table),
        (
            *(0, 0, 0, 0, 0, args.num_kv_heads, args.group_size, int(args.has_mask)),
            *args.output_numbers,
            schedule.merge.offset,
        ),
        _constants(args.constants["STRIDE_UNIT"], out.shape[-1], parts.element_size(), MERGE_ROWS),
    )


def merge(parts: Tensor, lse: Tensor, out: Tensor, out_lse: Tensor) -> None:
    """Merge N partial answers, which share no memory with `out` and `out_lse`.

    Args:
        parts: `[N, R, Dv]` float32, float16 or bfloat16, any strides with a last of 1.
        lse: float32 `[N, R]`, natural logarithm, any stride with a last of 1. A part with -inf has
            no weight; +inf or NaN makes the row NaN.
        out: `[R, Dv]`, one of those dtypes, any stride with a last of 1: 0 where no part has
            weight.
        out_lse: float32 `[R]`, contiguous: -inf where no part has weight.

    Computes in float32, parts in order. Cost: one launch; each part with a weight is read once.
    Raises what `rotary.rotate` raises.
    """
    assert out_lse.is_contiguous(), "rows are contiguous"
    shapes = [(t.shape, t.stride()) for t in (parts, lse, out)]
    plan = _plan(*shapes, parts.element_size())
    if plan.grid[0]:
        tensors = parts, lse, out, out_lse, None, None, None
        launch = KernelLaunch(LAUNCHER, plan.grid, tensors, plan.numbers, plan.constants)
        launch_all([launch])


@lru_cache(maxsize=4096)
def _plan(parts: Shape, lse: Shape, out: Shape, element_size: int) -> LaunchPlan:
    for sizes, steps in (parts, lse, out):
        assert steps[-1] == 1 or sizes[-1] == 1, "rows are contiguous"
    num_parts, num_rows, width = parts[0]
    if not num_rows:
        return LaunchPlan((0,), (), {})
    unit = stride_unit(parts, out)
    groups = max(1, next_power_of_2(max(1, width)) * element_size // VECTOR_BYTES)
    constants = _constants(unit, width, element_size, max(1, THREADS // groups))
    part_strides, out_strides = ([step // unit for step in strides(*t)] for t in (parts, out))
    one_head = 1, 1, 1, 0  # heads of keys, query heads of each, natural scores, no sinks
    numbers = (
        *(num_parts, num_rows, strides(*lse)[0], *part_strides),
        *(*one_head, *out_strides, 0, 0),
    )
    return LaunchPlan((cdiv(num_rows, constants["BLOCK_M"]),), numbers, constants)


def _constants(unit: int, width: int, element_size: int, rows: int) -> dict[str, int]:
    block_width = next_power_of_2(max(1, width))
    group = min(block_width, VECTOR_BYTES // element_size)
    return {
        "STRIDE_UNIT": unit,
        "VALUE_DIM": width,
        "BLOCK_M": rows,
        "GROUPS": block_width // group,
        "GROUP": group,
    }
