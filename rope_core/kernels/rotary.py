"""Rotation of queries and keys in one launch, by angles of a table or by positions."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from torch import Tensor

from rope_core.kernels.block_sizes import (
    cdiv,
    head_blocks,
    next_power_of_2,
    stride_unit,
    strides,
)
from rope_core.kernels.launcher import KernelLaunch, Launcher, LaunchPlan, launch_all
from rope_core.kernels.rotary_kernel import rotary_kernel

Layout = Literal["half", "interleaved"]

LAUNCHER = Launcher(rotary_kernel, num_tensors=9)

MAX_TENSORS = 2
"""Tensors that one launch rotates, at most: queries and keys."""

TILE_ELEMENTS = 2048
"""Elements that a program rotates: at most four accesses of 16 bytes for each of its threads."""

MAX_HEADS = 8
"""Heads of a token in a tile, at most. With more, its threads share the angles of too few
tokens."""


def rotate(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    *,
    rotary_dim: int,
    layout: Layout,
    table: tuple[Tensor, Tensor] | None = None,
    inv_freq: Tensor | None = None,
    index: Tensor | None = None,
    slots: Tensor | None = None,
    attention_scaling: float = 1.0,
    inverse: bool = False,
    trailing: bool = False,
) -> None:
    """Rotate each of `xs` into the one of `outs`, by angles of a table or by positions.

    With differences of positions, rotated keys move by these.

    Args:
        xs: tensors `[T, H, D]` of the same tokens, device and dtype: float32, float16 or bfloat16.
            H may differ. Any strides, but the last is 1. With slots, pages
            `[pages, page_size, H, D]`.
        outs: of their shapes and dtype, any strides with a last of 1. Each is its x, or shares no
            memory with `xs`; elements that are not rotated are then copied.
        rotary_dim: how many elements of a head are rotated.
        layout: which elements are pairs: (i, i + rotary_dim / 2), or (2i, 2i + 1).
        table: cosines and sines, float32 `[rows, rotary_dim / 2]`, contiguous.
        inv_freq: in place of a table: float64 `[rotary_dim / 2]`, contiguous, radians per position.
        index: `[T]` of any stride. With a table int64, the row of each token, not checked; with
            inv_freq its position, whole or fractional, any value of int64. None: 0, 1, 2, ...
        slots: int64 `[T]`, contiguous: page * page_size + slot of each token, each at most once.
            Other slots are not written. None: tokens are packed. Requires index.
        attention_scaling: multiplier of cosines and sines.
        inverse: rotate by the negative angle; the multiplier is not inverted.
        trailing: rotate the last elements of a head, not the first.

    Computes in float32 and rounds once. Angles of positions are products in float64; the errors of
    their float32 cosines and sines are below 1e-7. Cost: a launch for each two of `xs`, where a
    single one takes the places of both; each is read and written once.

    Raises:
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    cos, sin = table or (None, None)
    assert cos is None or cos.is_contiguous()
    assert sin is None or sin.is_contiguous()
    num_tokens = len(xs[0] if index is None else index)
    stride_index = 0 if index is None else index.stride(0)
    scales = attention_scaling, -attention_scaling if inverse else attention_scaling
    launches = []
    for start in range(0, len(xs), MAX_TENSORS):
        pair, pair_out = xs[start : start + MAX_TENSORS], outs[start : start + MAX_TENSORS]
        heads = pair[0], pair_out[0], pair[-1], pair_out[-1]
        copy_rest = rotary_dim < pair[0].shape[-1] and not _in_place(pair, pair_out)
        shapes = tuple([(t.shape, t.stride()) for t in heads])
        plan = _plan(shapes, len(pair), num_tokens, rotary_dim, layout, trailing, copy_rest)
        if plan.grid[0]:
            tensors = *heads, cos, sin, inv_freq, index, slots
            numbers = *scales, stride_index, *plan.numbers
            launches.append(KernelLaunch(LAUNCHER, plan.grid, tensors, numbers, plan.constants))
    launch_all(launches)


@lru_cache(maxsize=4096)
def _plan(
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],  # sizes, strides of x, out, x, out
    num_xs: int,
    num_tokens: int,
    rotary_dim: int,
    layout: Layout,
    trailing: bool,
    copy_rest: bool,
) -> LaunchPlan:
    for sizes, steps in shapes:
        assert steps[-1] == 1 or sizes[-1] == 1, "heads are contiguous"
    (*leading, q_heads, head_dim), _ = shapes[0]
    heads = [q_heads] if num_xs == 1 else [q_heads, shapes[2][0][-2]]
    if not num_tokens or not sum(heads):
        return LaunchPlan((0,), (), {})
    rows = max(1, TILE_ELEMENTS // next_power_of_2(head_dim))
    block_heads = head_blocks(heads, min(rows, MAX_HEADS))
    block_tokens = rows // block_heads
    num_blocks = sum(cdiv(h, block_heads) for h in heads)
    unit = stride_unit(*shapes)
    unit_strides = [[step // unit for step in strides(*shape)] for shape in shapes]
    paged = len(leading) == 2
    return LaunchPlan(
        grid=(cdiv(num_tokens, block_tokens) * num_blocks,),
        numbers=(
            *(num_tokens, q_heads, heads[1] if num_xs == 2 else 0),
            *(step for steps in unit_strides for step in steps[-2:]),
            *((unit_strides[0][0], unit_strides[1][0]) if paged else (0, 0)),
        ),
        constants={
            "HEAD_DIM": head_dim,
            "ROTARY_DIM": rotary_dim,
            "ROTARY_START": head_dim - rotary_dim if trailing else 0,
            "INTERLEAVED": layout == "interleaved",
            "COPY_REST": copy_rest,
            "PAGE_SIZE": leading[1] if paged else 1,
            "STRIDE_UNIT": unit,
            "BLOCK_T": block_tokens,
            "BLOCK_H": block_heads,
            "BLOCK_HALF": next_power_of_2(rotary_dim // 2),
            "BLOCK_REST": next_power_of_2(max(1, head_dim - rotary_dim)),
        },
    )


def _in_place(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> bool:
    return all(x.data_ptr() == out.data_ptr() for x, out in zip(xs, outs, strict=True))
