"""The kernel that rotates queries and keys: a program has some heads of some tokens."""

import triton
import triton.language as tl

from rope_core.kernels.trig import cos_sin

SIZES = ["cos_gain", "sin_gain", "num_tokens", "q_heads", "k_heads", "ids_stride"]
STRIDES = [f"{t}_{axis}" for t in ("q", "q_out", "k", "k_out") for axis in ("token", "head")]
PAGES = ["x_page", "out_page"]


@triton.jit(
    do_not_specialize=SIZES + STRIDES + PAGES,
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
    cos_gain: tl.float32,  # what cosines are multiplied by
    sin_gain: tl.float32,
    num_tokens: tl.int64,
    q_heads: tl.int32,
    k_heads: tl.int32,
    ids_stride: tl.int64,
    q_token: tl.int64,
    q_head: tl.int64,
    q_out_token: tl.int64,
    q_out_head: tl.int64,
    k_token: tl.int64,
    k_head: tl.int64,
    k_out_token: tl.int64,
    k_out_head: tl.int64,
    x_page: tl.int64,
    out_page: tl.int64,
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
) -> None:
    """Rotate some heads of some tokens: blocks of q's heads come first, then those of k's."""
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

    # x is loaded before the angles are computed, which hides the latency
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
        # loaded as wide as the angles, though all its rows are one: the compiler moves arithmetic
        # to where threads hold x, once for each head, but not if it began with such a load
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
        tl.store(
            out_rows + first + kept, tl.load(x_rows + first + kept, mask=in_kept), mask=in_kept
        )
