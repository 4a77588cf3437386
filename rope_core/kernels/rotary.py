"""Rotation of queries and keys in one launch, by angles of a table or by positions."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from torch import Tensor

from rope_core.kernels.block_sizes import cdiv, head_blocks, next_power_of_2, strides, unit
from rope_core.kernels.launcher import KernelLaunch, Launcher, launch_all
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
        outs: of their shapes and dtype, any strides with a last of 1. Each is its own x, exactly,
            or shares no memory with `xs`; elements that do not turn are then copied.
        cos: float32 `[rows, rotary_dim / 2]`, contiguous.
        sin: as `cos`.
        rotary_dim: how many elements of a head turn.
        layout: which of them are pairs: (i, i + rotary_dim / 2), or (2i, 2i + 1).
        rows: int64 `[T]`: the row of the table of each token, not checked. None: its number.
        inverse: rotate back, by the negative angle.
        trailing: the last elements of a head turn, not the first.

    Computes in float32 and rounds once. Cost: a launch for each two of `xs`; each is read and
    written once.

    Raises:
        KernelNotBuilt: a kernel is missing and is being built elsewhere; nothing is launched.
        KernelFailed: a kernel cannot be built; nothing is launched.
    """
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    _launch(
        xs,
        outs,
        num_tokens=len(xs[0]),
        rotary_dim=rotary_dim,
        layout=layout,
        trailing=trailing,
        table=(cos, sin),
        ids=rows,
        gains=(1.0, -1.0 if inverse else 1.0),
    )


def rotate_at(
    xs: Sequence[Tensor],
    outs: Sequence[Tensor],
    positions: Tensor,
    inv_freq: Tensor,
    *,
    rotary_dim: int,
    layout: Layout,
    gain: float = 1.0,
    inverse: bool = False,
    trailing: bool = False,
) -> None:
    """Rotate each of `xs` into the one of `outs` by the angles `positions * inv_freq`.

    With distances in place of positions, keys that are rotated move by them.

    Args:
        xs: as in `rotate`.
        outs: as in `rotate`.
        positions: `[T]` of any stride, whole or fractional; any values of int64.
        inv_freq: float64 `[rotary_dim / 2]`, contiguous, radians per position.
        rotary_dim: as in `rotate`.
        layout: as in `rotate`.
        gain: what cosines and sines are multiplied by.
        inverse: as in `rotate`; the gain is not inverted.
        trailing: as in `rotate`.

    Angles are products in float64, their cosines and sines float32 within 1e-7. Raises what
    `rotate` raises.
    """
    _launch(
        xs,
        outs,
        num_tokens=len(positions),
        rotary_dim=rotary_dim,
        layout=layout,
        trailing=trailing,
        inv_freq=inv_freq,
        ids=positions,
        gains=(gain, -gain if inverse else gain),
    )


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
    """Move rotated keys that lie in pages by `delta` positions, in place.

    Args:
        k: `[pages, Hkv, page_size, D]`, any strides with a last of 1: the keys of the pool.
        slots: int64 `[T]`, contiguous: page * page_size + place of each token, each at most once.
        delta: `[T]` of any stride: how far each moves.
        inv_freq: as in `rotate_at`.
        rotary_dim: as in `rotate`.
        layout: as in `rotate`.
        trailing: as in `rotate`.

    Slots that are not named are not touched. Raises what `rotate` raises.
    """
    pages = [k.transpose(1, 2)]
    _launch(
        pages,
        pages,
        num_tokens=len(slots),
        rotary_dim=rotary_dim,
        layout=layout,
        trailing=trailing,
        inv_freq=inv_freq,
        ids=delta,
        slots=slots,
    )


def _launch(
    xs: Sequence[Tensor],  # [T, H, D], or with slots [pages, page_size, H, D]
    outs: Sequence[Tensor],
    *,
    num_tokens: int,
    rotary_dim: int,
    layout: Layout,
    trailing: bool,
    table: tuple[Tensor | None, Tensor | None] = (None, None),
    inv_freq: Tensor | None = None,
    ids: Tensor | None = None,
    slots: Tensor | None = None,
    gains: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Launch the kernel for each two of `xs`; a single one takes the places of both."""
    launches = []
    for start in range(0, len(xs), MAX_TENSORS):
        pair, pair_out = xs[start : start + MAX_TENSORS], outs[start : start + MAX_TENSORS]
        heads = pair[0], pair_out[0], pair[-1], pair_out[-1]
        copy_kept = rotary_dim < pair[0].shape[-1] and not _in_place(pair, pair_out)
        shapes = tuple([(t.shape, t.stride()) for t in heads])
        plan = _plan(shapes, len(pair), num_tokens, rotary_dim, layout, trailing, copy_kept)
        if plan.grid[0]:
            tensors = *heads, *table, inv_freq, ids, slots
            numbers = *gains, *plan.sizes, 0 if ids is None else ids.stride(0), *plan.strides
            launches.append(KernelLaunch(LAUNCHER, plan.grid, tensors, numbers, plan.constants))
    launch_all(launches)


class _Plan(NamedTuple):
    """Arguments of a launch that follow from shapes alone."""

    grid: tuple[int]
    sizes: tuple[int, ...]  # tokens, heads of q, heads of k
    strides: tuple[int, ...]
    constants: Mapping[str, int]


@lru_cache(maxsize=4096)
def _plan(
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],  # sizes, strides of x, out, x, out
    num_xs: int,
    num_tokens: int,
    rotary_dim: int,
    layout: Layout,
    trailing: bool,
    copy_kept: bool,
) -> _Plan:
    for sizes, steps in shapes:
        assert steps[-1] == 1 or sizes[-1] == 1, "heads lie contiguous"
    (*leading, q_heads, head_dim), _ = shapes[0]
    heads = [q_heads] if num_xs == 1 else [q_heads, shapes[2][0][-2]]
    if not num_tokens or not sum(heads):
        return _Plan((0,), (), (), {})
    rows = max(1, TILE_ELEMENTS // next_power_of_2(head_dim))
    block_heads = head_blocks(heads, min(rows, MAX_HEADS))
    block_tokens = rows // block_heads
    num_blocks = sum(cdiv(h, block_heads) for h in heads)
    common = unit(*shapes)
    unit_strides = [[step // common for step in strides(*each)] for each in shapes]
    paged = len(leading) == 2
    return _Plan(
        grid=(cdiv(num_tokens, block_tokens) * num_blocks,),
        sizes=(num_tokens, q_heads, heads[1] if num_xs == 2 else 0),
        strides=(
            *(step for each in unit_strides for step in each[-2:]),
            *((unit_strides[0][0], unit_strides[1][0]) if paged else (0, 0)),
        ),
        constants={
            "HEAD_DIM": head_dim,
            "ROTARY_DIM": rotary_dim,
            "START": head_dim - rotary_dim if trailing else 0,
            "INTERLEAVED": layout == "interleaved",
            "COPY_KEPT": copy_kept,
            "PAGE_SIZE": leading[1] if paged else 1,
            "UNIT": common,
            "BLOCK_TOKENS": block_tokens,
            "BLOCK_HEADS": block_heads,
            "BLOCK_HALF": next_power_of_2(rotary_dim // 2),
            "BLOCK_KEPT": next_power_of_2(max(1, head_dim - rotary_dim)),
        },
    )


def _in_place(xs: Sequence[Tensor], outs: Sequence[Tensor]) -> bool:
    return all(x.data_ptr() == out.data_ptr() for x, out in zip(xs, outs, strict=True))
