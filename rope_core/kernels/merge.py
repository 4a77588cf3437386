"""Attention over parts of the keys, merged into attention over all of them."""

from collections.abc import Mapping
from functools import lru_cache

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.block_sizes import cdiv, next_power_of_2, strides, unit
from rope_core.kernels.launcher import KernelLaunch, Launcher, launch_all

THREADS = 128

Shape = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes and strides of a tensor."""


@triton.jit(
    do_not_specialize=["num_parts", "num_rows", "lse_part", "x_part", "x_row", "out_row"],
    do_not_specialize_on_alignment=["lse_ptr", "out_lse_ptr"],
)
def merge_kernel(
    x_ptr,  # [parts, rows, WIDTH], last stride 1
    lse_ptr,  # [parts, rows] float32, rows contiguous
    out_ptr,  # [rows, WIDTH]
    out_lse_ptr,  # [rows] float32
    num_parts: tl.int32,
    num_rows: tl.int64,
    lse_part: tl.int64,  # stride in elements
    x_part: tl.int64,  # these are strides in units of UNIT elements
    x_row: tl.int64,
    out_row: tl.int64,
    WIDTH: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    GROUPS: tl.constexpr,  # powers of two; GROUPS * GROUP is at least WIDTH
    GROUP: tl.constexpr,
) -> None:
    """Merge the parts of some rows."""
    # a thread has groups of a row and finds their weights itself: no thread waits for another
    group = tl.arange(0, GROUPS)[None, :]
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    row += tl.zeros_like(group)  # [BLOCK_ROWS, GROUPS]
    in_rows = row < num_rows
    lse_rows = lse_ptr + row
    lse_part = lse_part.to(tl.int64)

    channel = group[:, :, None] * GROUP + tl.arange(0, GROUP)[None, None, :]
    in_width = channel < WIDTH
    x_rows = x_ptr + (row * (x_row.to(tl.int64) * UNIT))[:, :, None] + channel
    x_part = x_part.to(tl.int64) * UNIT

    top = tl.full([BLOCK_ROWS, GROUPS], -float("inf"), tl.float32)
    for part in tl.range(0, num_parts, loop_unroll_factor=8):
        top = tl.maximum(top, tl.load(lse_rows + part * lse_part, mask=in_rows, other=0.0))
    top = tl.where(tl.abs(top) == float("inf"), 0.0, top)

    total = tl.zeros([BLOCK_ROWS, GROUPS], tl.float32)
    mixed = tl.zeros([BLOCK_ROWS, GROUPS, GROUP], tl.float32)
    for part in range(num_parts):
        lse = tl.load(lse_rows + part * lse_part, mask=in_rows, other=-float("inf"))
        weight = tl.exp(lse - top)
        # a part that counts for nothing is not read: it may hold anything, and 0 * NaN is NaN
        counts = (weight != 0)[:, :, None] & in_width
        x = tl.load(x_rows + part * x_part, mask=counts, other=0.0).to(tl.float32)
        total += weight
        mixed += weight[:, :, None] * x

    empty = total == 0
    total = tl.where(empty, 1.0, total)
    out = (mixed / total[:, :, None]).to(out_ptr.dtype.element_ty)
    out_rows = out_ptr + (row * (out_row.to(tl.int64) * UNIT))[:, :, None] + channel
    tl.store(out_rows, out, mask=in_rows[:, :, None] & in_width)
    lse = tl.where(empty, -float("inf"), tl.log(total) + top)
    tl.store(out_lse_ptr + row, lse, mask=in_rows & (group == 0))


LAUNCHER = Launcher(merge_kernel, num_tensors=4)


def merge(parts: Tensor, lse: Tensor, out: Tensor, out_lse: Tensor) -> None:
    """Merge N partial answers, which share no memory with `out` and `out_lse`.

    Args:
        parts: `[N, R, Dv]` float32, float16 or bfloat16, any strides with a last of 1.
        lse: float32 `[N, R]`, natural logarithm, any stride with a last of 1. A part with -inf
            counts for nothing; +inf or NaN makes the row NaN.
        out: `[R, Dv]`, one of those dtypes, any stride with a last of 1: 0 where no part counts.
        out_lse: float32 `[R]`, contiguous: -inf where no part counts.

    Computes in float32, parts in order. Cost: one launch, each part that counts is read once.
    Raises what `rotary.rotate` raises.
    """
    shapes = [(t.shape, t.stride()) for t in (parts, lse, out)]
    assert out_lse.is_contiguous(), "rows lie contiguous"
    grid, numbers, constants = _plan(*shapes, parts.element_size())
    if grid[0]:
        tensors = parts, lse, out, out_lse
        launch_all([KernelLaunch(LAUNCHER, grid, tensors, numbers, constants, THREADS // 32)])


@lru_cache(maxsize=4096)
def _plan(
    parts: Shape, lse: Shape, out: Shape, element_size: int
) -> tuple[tuple[int], tuple[int, ...], Mapping[str, int]]:
    """Return grid, numbers and constants for the sizes and strides; grid 0 for no rows."""
    for sizes, steps in (parts, lse, out):
        assert steps[-1] == 1 or sizes[-1] == 1, "rows lie contiguous"
    num_parts, num_rows, width = parts[0]
    if not num_rows:
        return (0,), (), {}
    common = unit(parts, out)
    x_part, x_row = strides(*parts)
    block_width = next_power_of_2(max(1, width))
    group = min(block_width, 16 // element_size)
    groups = block_width // group
    block_rows = max(1, THREADS // groups)
    numbers = (
        *(num_parts, num_rows),
        strides(*lse)[0],
        x_part // common,
        x_row // common,
        strides(*out)[0] // common,
    )
    constants = {
        "WIDTH": width,
        "UNIT": common,
        "BLOCK_ROWS": block_rows,
        "GROUPS": groups,
        "GROUP": group,
    }
    return (cdiv(num_rows, block_rows),), numbers, constants
