"""Rotation of queries and keys in one launch, by angles of a table or by positions."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import triton
import triton.language as tl
from torch import Tensor

from rope_core.kernels.angles import cos_sin
from rope_core.kernels.tiles import head_blocks, strides, unit

Layout = Literal["half", "interleaved"]

TILE_ELEMENTS = 2048
"""Elements that a program rotates: at most four accesses of 16 bytes for each of its threads."""

_SIZES = ["num_tokens", "q_heads", "k_heads", "ids_stride", "x_page", "out_page"]
_STRIDES = [f"{t}_{axis}" for t in ("q", "q_out", "k", "k_out") for axis in ("token", "head")]


@triton.jit(
    do_not_specialize=_SIZES + _STRIDES,
    do_not_specialize_on_alignment=["ids_ptr", "inv_freq_ptr", "slots_ptr"],
)
def rotary_kernel(
    q_ptr,  # [tokens, q_heads, HEAD_DIM], strides in units of UNIT, the last is 1 element
    q_out_ptr,  # as q; may be q
    k_ptr,  # [tokens, k_heads, HEAD_DIM]
    k_out_ptr,
    cos_ptr,  # [rows, half] float32, or None where positions are given
    sin_ptr,
    inv_freq_ptr,  # [half] float64, or None where a table is
    ids_ptr,  # [tokens]: position of each token, or its row of the table; None: they are in order
    slots_ptr,  # [tokens] int64: where each token lies, page * PAGE_SIZE + place; None: in order
    cos_gain,  # what cosines are multiplied by
    sin_gain,
    num_tokens,
    q_heads,
    k_heads,
    ids_stride,
    q_token,
    q_head,
    q_out_token,
    q_out_head,
    k_token,
    k_head,
    k_out_token,
    k_out_head,
    x_page,
    out_page,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    START: tl.constexpr,  # the first element that turns
    INTERLEAVED: tl.constexpr,
    COPY_KEPT: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,  # powers of two: at least half of ROTARY_DIM
    BLOCK_KEPT: tl.constexpr,  # at least HEAD_DIM - ROTARY_DIM
):
    HALF: tl.constexpr = ROTARY_DIM // 2
    q_blocks = tl.cdiv(q_heads, BLOCK_HEADS)
    num_blocks = q_blocks + tl.cdiv(k_heads, BLOCK_HEADS)
    program = tl.program_id(0)
    block = program % num_blocks
    # int64 before any product: tokens * stride passes 2**31 on a long batch
    token = (program // num_blocks).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    in_tokens = token < num_tokens

    of_q = block < q_blocks
    x_ptr = tl.where(of_q, q_ptr, k_ptr)
    out_ptr = tl.where(of_q, q_out_ptr, k_out_ptr)
    x_token = tl.where(of_q, q_token, k_token).to(tl.int64) * UNIT
    x_head = tl.where(of_q, q_head, k_head).to(tl.int64) * UNIT
    out_token = tl.where(of_q, q_out_token, k_out_token).to(tl.int64) * UNIT
    out_head = tl.where(of_q, q_out_head, k_out_head).to(tl.int64) * UNIT
    num_heads = tl.where(of_q, q_heads, k_heads)
    head = tl.where(of_q, block, block - q_blocks) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)

    if slots_ptr is None:
        x_row, out_row = token * x_token, token * out_token
    else:
        slot = tl.load(slots_ptr + token, mask=in_tokens, other=0).to(tl.int64)
        page, place = slot // PAGE_SIZE, slot % PAGE_SIZE
        x_row = page * (x_page.to(tl.int64) * UNIT) + place * x_token
        out_row = page * (out_page.to(tl.int64) * UNIT) + place * out_token
    x_rows = x_ptr + (x_row[:, None] + head[None, :] * x_head)[:, :, None]
    out_rows = out_ptr + (out_row[:, None] + head[None, :] * out_head)[:, :, None]
    in_rows = (in_tokens[:, None] & (head < num_heads)[None, :])[:, :, None]

    # loads of x are on their way while the angles are found
    pair = tl.arange(0, BLOCK_HALF)
    if INTERLEAVED:
        channel = tl.arange(0, 2 * BLOCK_HALF)[None, None, :]
        in_x = in_rows & (channel < ROTARY_DIM)
        x = tl.load(x_rows + START + channel, mask=in_x)
        x1, x2 = tl.split(x.reshape(BLOCK_TOKENS, BLOCK_HEADS, BLOCK_HALF, 2))
    else:
        channel = pair[None, None, :]
        in_x = in_rows & (channel < HALF)
        x1 = tl.load(x_rows + START + channel, mask=in_x)
        x2 = tl.load(x_rows + START + HALF + channel, mask=in_x)

    if ids_ptr is None:
        ids = token
    else:
        ids = tl.load(ids_ptr + token * ids_stride, mask=in_tokens, other=0)
    if inv_freq_ptr is None:
        entry = ids.to(tl.int64)[:, None] * HALF + pair[None, :]
        in_table = in_tokens[:, None] & (pair < HALF)[None, :]
        cos = tl.load(cos_ptr + entry, mask=in_table, other=0.0)
        sin = tl.load(sin_ptr + entry, mask=in_table, other=0.0)
    else:
        # a tile wide, though all its rows are one: the compiler moves arithmetic, but no such load,
        # to where threads hold x, and would find each angle anew for each head
        step = inv_freq_ptr + pair[None, :] + tl.zeros_like(token)[:, None]
        inv_freq = tl.load(step, mask=(pair < HALF)[None, :], other=0.0)
        cos, sin = cos_sin(ids.to(tl.float64)[:, None] * inv_freq)
    cos, sin = (cos * cos_gain)[:, None, :], (sin * sin_gain)[:, None, :]

    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    y1 = (x1 * cos - x2 * sin).to(out_ptr.dtype.element_ty)
    y2 = (x2 * cos + x1 * sin).to(out_ptr.dtype.element_ty)
    if INTERLEAVED:
        y = tl.join(y1, y2).reshape(BLOCK_TOKENS, BLOCK_HEADS, 2 * BLOCK_HALF)
        tl.store(out_rows + START + channel, y, mask=in_x)
    else:
        tl.store(out_rows + START + channel, y1, mask=in_x)
        tl.store(out_rows + START + HALF + channel, y2, mask=in_x)

    if COPY_KEPT:
        kept = tl.arange(0, BLOCK_KEPT)[None, None, :]
        in_kept = in_rows & (kept < HEAD_DIM - ROTARY_DIM)
        first: tl.constexpr = ROTARY_DIM if START == 0 else 0
        tl.store(out_rows + first + kept, tl.load(x_rows + first + kept, mask=in_kept), mask=in_kept)


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
        xs: one tensor or two `[T, H, D]` of the same tokens, device and dtype: float32, float16 or
            bfloat16. H may differ. Any strides, but the last is 1.
        outs: of their shapes and dtype, any strides with a last of 1. Each is its own x, exactly,
            or shares no memory with `xs`; elements that do not turn are then copied.
        cos: float32 `[rows, rotary_dim / 2]`, contiguous.
        sin: as `cos`.
        rotary_dim: how many elements of a head turn.
        layout: which of them are pairs: (i, i + rotary_dim / 2), or (2i, 2i + 1).
        rows: int64 `[T]`: the row of the table of each token, not checked. None: its number.
        inverse: rotate back, by the negative angle.
        trailing: the last elements of a head turn, not the first.

    Computes in float32 and rounds once. Cost: one launch; reads and writes each x once.
    """
    assert cos.is_contiguous()
    assert sin.is_contiguous()
    _launch(
        *([x[None] for x in xs], [out[None] for out in outs]),
        *(len(xs[0]), rotary_dim, layout, trailing),
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

    Angles are products in float64, their cosines and sines float32 within 1e-7.
    """
    _launch(
        *([x[None] for x in xs], [out[None] for out in outs]),
        *(len(positions), rotary_dim, layout, trailing),
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

    Slots that are not named are not touched.
    """
    pages = [k.transpose(1, 2)]
    _launch(
        *(pages, pages, len(slots), rotary_dim, layout, trailing),
        inv_freq=inv_freq,
        ids=delta,
        slots=slots,
    )


def _launch(
    xs: Sequence[Tensor],  # [pages, page_size, H, D]; without slots, all tokens are one page
    outs: Sequence[Tensor],
    num_tokens: int,
    rotary_dim: int,
    layout: Layout,
    trailing: bool,
    *,
    table: tuple[Tensor | None, Tensor | None] = (None, None),
    inv_freq: Tensor | None = None,
    ids: Tensor | None = None,
    slots: Tensor | None = None,
    gains: tuple[float, float] = (1.0, 1.0),
) -> None:
    for t in (*xs, *outs):
        assert t.stride(-1) == 1 or t.shape[-1] == 1, "heads lie contiguous"
    heads = [x.shape[2] for x in xs]
    if not num_tokens or not sum(heads):
        return
    _, page_size, _, head_dim = xs[0].shape
    block_half = triton.next_power_of_2(rotary_dim // 2)
    block_kept = triton.next_power_of_2(max(1, head_dim - rotary_dim))
    rows = max(1, TILE_ELEMENTS // triton.next_power_of_2(head_dim))
    block_heads = head_blocks(heads, min(rows, 8))
    num_blocks = sum(triton.cdiv(h, block_heads) for h in heads)
    block_tokens = rows // block_heads
    common = unit(*xs, *outs)
    lying = [[stride // common for stride in strides(t)] for t in (*xs, *outs)]
    sides: list[Any] = [xs[0], outs[0], xs[-1], outs[-1]]
    ways = [lying[0], lying[len(xs)], lying[len(xs) - 1], lying[-1]]
    rotary_kernel[(triton.cdiv(num_tokens, block_tokens) * num_blocks,)](
        *sides,
        *table,
        inv_freq,
        ids,
        slots,
        *gains,
        num_tokens,
        heads[0],
        heads[1] if len(xs) == 2 else 0,
        0 if ids is None else ids.stride(0),
        *(stride for way in ways for stride in way[1:]),
        lying[0][0],
        lying[len(xs)][0],
        HEAD_DIM=head_dim,
        ROTARY_DIM=rotary_dim,
        START=head_dim - rotary_dim if trailing else 0,
        INTERLEAVED=layout == "interleaved",
        COPY_KEPT=rotary_dim < head_dim and any(o is not x for x, o in zip(xs, outs, strict=True)),
        PAGE_SIZE=1 if slots is None else page_size,
        UNIT=common,
        BLOCK_TOKENS=block_tokens,
        BLOCK_HEADS=block_heads,
        BLOCK_HALF=block_half,
        BLOCK_KEPT=block_kept,
    )
