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
    cos: Tensor,
    sin: Tensor,
    *,
    rotary_dim: int,
    layout: Layout,
    rows: Tensor | None = None,
    inverse: bool = False,
    trailing: bool = False,
) -> None:
    """Rotate each of `xs` into the one of `outs` by angles of a table.

    Args:
        xs: tensors `[T, H, D]` of the same tokens, device and dtype: float32, float16 or bfloat16.
            H may differ. Any strides, but the last is 1.
        outs: of their shapes and dtype, any strides with a last of 1. Each is its x, or shares no
            memory with `xs`; elements that are not rotated are then copied.
        cos: float32 `[rows, rotary_dim / 2]`, contiguous.
        sin: as `cos`.
        rotary_dim: how many elements of a head are rotated.
        layout: which elements are pairs: (i, i + rotary_dim / 2), or (2i, 2i + 1).
        rows: int64 `[T]`: the row of the table of each token, not checked. None: its number.
        inverse: rotate by the negative angle.
        trailing: rotate the last elements of a head, not the first.

    Computes in float32 and rounds once. Cost: a launch for each two of `xs`; each is read and
    written once.

    Raises:
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    rotated = rotary_dim, layout, trailing
    scales = 1.0, -1.0 if inverse else 1.0
    _launch(xs, outs, len(xs[0]), rotated, table=(cos, sin), index=rows, scales=scales)


def rotate_at(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    positions: Tensor,
    inv_freq: Tensor,
    *,
    rotary_dim: int,
    layout: Layout,
    attention_scaling: float = 1.0,
    inverse: bool = False,
    trailing: bool = False,
) -> None:
    """Rotate each of `xs` into the one of `outs` by the angles `positions * inv_freq`.

    With differences of positions, rotated keys move by these.

    Args:
        xs: as in `rotate`.
        outs: as in `rotate`.
        positions: `[T]` of any stride, whole or fractional; any values of int64.
        inv_freq: float64 `[rotary_dim / 2]`, contiguous, radians per position.
        rotary_dim: as in `rotate`.
        layout: as in `rotate`.
        attention_scaling: multiplier of cosines and sines.
        inverse: as in `rotate`; the multiplier is not inverted.
        trailing: as in `rotate`.

    Angles are products in float64; the errors of their float32 cosines and sines are below 1e-7.
    Raises what `rotate` raises.
    """
    rotated = rotary_dim, layout, trailing
    scales = attention_scaling, -attention_scaling if inverse else attention_scaling
    _launch(xs, outs, len(positions), rotated, inv_freq=inv_freq, index=positions, scales=scales)


def shift_pages(
    k: Tensor,
    slots: Tensor,
    delta: Tensor,
    inv_freq: Tensor,
    *,
    rotary_dim: int,
    layout: Layout,
    trailing: bool = False,
) -> None:
    """Move rotated keys in pages by `delta` positions, in place.

    Args:
        k: `[pages, Hkv, page_size, D]`, any strides with a last of 1: the keys of the pool.
        slots: int64 `[T]`, contiguous: page * page_size + slot of each token, each at most once.
        delta: `[T]` of any stride: the distance of each token.
        inv_freq: as in `rotate_at`.
        rotary_dim: as in `rotate`.
        layout: as in `rotate`.
        trailing: as in `rotate`.

    Other slots are not written. Raises what `rotate` raises.
    """
    pages = [k.transpose(1, 2)]
    rotated = rotary_dim, layout, trailing
    _launch(pages, pages, len(slots), rotated, inv_freq=inv_freq, index=delta, slots=slots)


def _launch(
    xs: Sequence[Tensor],  # [T, H, D], or with slots [pages, page_size, H, D]
    outs: Sequence[Tensor],
    num_tokens: int,
    rotated: tuple[int, Layout, bool],  # rotary_dim, layout, trailing
    *,
    table: tuple[Tensor | None, Tensor | None] = (None, None),
    inv_freq: Tensor | None = None,
    index: Tensor | None = None,
    slots: Tensor | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Launch the kernel for each two of `xs`; a single one takes the places of both."""
    launches = []
    for start in range(0, len(xs), MAX_TENSORS):
        pair, pair_out = xs[start : start + MAX_TENSORS], outs[start : start + MAX_TENSORS]
        heads = pair[0], pair_out[0], pair[-1], pair_out[-1]
        copy_rest = rotated[0] < pair[0].shape[-1] and not _in_place(pair, pair_out)
        shapes = tuple([(t.shape, t.stride()) for t in heads])
        plan = _plan(shapes, len(pair), num_tokens, *rotated, copy_rest)
        if plan.grid[0]:
            tensors = *heads, *table, inv_freq, index, slots
            stride_index = 0 if index is None else index.stride(0)
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
