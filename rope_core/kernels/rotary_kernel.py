"""The kernel that rotates queries and keys (RoFormer, Su et al., 2021).

A program rotates some heads of some tokens, whose angles it computes or loads once.
"""

import triton
import triton.language as tl

from rope_core.kernels.trig import cos_sin

SIZES = ["cos_scale", "sin_scale", "num_tokens", "q_heads", "k_heads", "stride_index"]
STRIDES = [f"stride_{t}_{axis}" for t in ("q", "q_out", "k", "k_out") for axis in ("token", "head")]
PAGES = ["stride_x_page", "stride_out_page"]


# fmt: off
@triton.jit(
    do_not_specialize=SIZES + STRIDES + PAGES,
    do_not_specialize_on_alignment=["index_ptr", "inv_freq_ptr", "slots_ptr"],
)
def rotary_kernel(
    q_ptr,  # [tokens, q_heads, HEAD_DIM], strides in units of STRIDE_UNIT, the last is 1 element
    q_out_ptr,  # as q; may be q
    k_ptr,  # [tokens, k_heads, HEAD_DIM]
    k_out_ptr,
    cos_ptr,  # [rows, HALF] float32, or None where positions are given
    sin_ptr,
    inv_freq_ptr,  # [HALF] float64, or None where a table is given
    index_ptr,  # [tokens]: position of each token, or its row of the table; None: 0, 1, 2, ...
    slots_ptr,  # [tokens] int64: page * PAGE_SIZE + slot of each token; None: not paged
    cos_scale: tl.float32, sin_scale: tl.float32,  # multiply cosines and sines
    stride_index: tl.int64,
    num_tokens: tl.int64, q_heads: tl.int32, k_heads: tl.int32,
    stride_q_token: tl.int64, stride_q_head: tl.int64,
    stride_q_out_token: tl.int64, stride_q_out_head: tl.int64,
    stride_k_token: tl.int64, stride_k_head: tl.int64,
    stride_k_out_token: tl.int64, stride_k_out_head: tl.int64,
    stride_x_page: tl.int64, stride_out_page: tl.int64,
    HEAD_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr,
    ROTARY_START: tl.constexpr,  # the first rotated element of a head
    INTERLEAVED: tl.constexpr,
    COPY_REST: tl.constexpr,  # copy the elements that are not rotated
    PAGE_SIZE: tl.constexpr, STRIDE_UNIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,  # tokens, heads
    BLOCK_HALF: tl.constexpr,  # power of two, >= HALF
    BLOCK_REST: tl.constexpr,  # power of two, >= HEAD_DIM - ROTARY_DIM
) -> None:
    """Rotate BLOCK_H heads of BLOCK_T tokens: blocks of q's heads come first, then those of k's."""
    HALF: tl.constexpr = ROTARY_DIM // 2
    num_q_blocks = tl.cdiv(q_heads, BLOCK_H)
    num_blocks = num_q_blocks + tl.cdiv(k_heads, BLOCK_H)
    program = tl.program_id(0)
    block = program % num_blocks
    # [BLOCK_T], int64 before any product: tokens * stride passes 2**31 on a long batch
    token = (program // num_blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_exists = token < num_tokens

    is_q = block < num_q_blocks
    x_ptr = tl.where(is_q, q_ptr, k_ptr)
    out_ptr = tl.where(is_q, q_out_ptr, k_out_ptr)
    x_token = tl.where(is_q, stride_q_token, stride_k_token).to(tl.int64) * STRIDE_UNIT
    x_head = tl.where(is_q, stride_q_head, stride_k_head).to(tl.int64) * STRIDE_UNIT
    out_token = tl.where(is_q, stride_q_out_token, stride_k_out_token).to(tl.int64) * STRIDE_UNIT
    out_head = tl.where(is_q, stride_q_out_head, stride_k_out_head).to(tl.int64) * STRIDE_UNIT
    num_heads = tl.where(is_q, q_heads, k_heads)
    # [BLOCK_H]
    head = tl.where(is_q, block, block - num_q_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)

    # [BLOCK_T]
    if slots_ptr is None:
        x_offset, out_offset = token * x_token, token * out_token
    else:
        slots = tl.load(slots_ptr + token, mask=token_exists, other=0).to(tl.int64)
        page, slot = slots // PAGE_SIZE, slots % PAGE_SIZE
        x_offset = page * (stride_x_page.to(tl.int64) * STRIDE_UNIT) + slot * x_token
        out_offset = page * (stride_out_page.to(tl.int64) * STRIDE_UNIT) + slot * out_token
    # [BLOCK_T, BLOCK_H, 1]
    x_row = x_ptr + (x_offset[:, None] + head[None, :] * x_head)[:, :, None]
    out_row = out_ptr + (out_offset[:, None] + head[None, :] * out_head)[:, :, None]
    row_exists = (token_exists[:, None] & (head < num_heads)[None, :])[:, :, None]

    # load x before the angles are computed, which hides the latency
    # [BLOCK_HALF]
    pair = tl.arange(0, BLOCK_HALF)
    if INTERLEAVED:
        # [BLOCK_T, BLOCK_H, 2 * BLOCK_HALF]
        d = tl.arange(0, 2 * BLOCK_HALF)[None, None, :]
        x_mask = row_exists & (d < ROTARY_DIM)
        x = tl.load(x_row + ROTARY_START + d, mask=x_mask)
        # [BLOCK_T, BLOCK_H, BLOCK_HALF] each
        x1, x2 = tl.split(x.reshape(BLOCK_T, BLOCK_H, BLOCK_HALF, 2))
    else:
        # [BLOCK_T, BLOCK_H, BLOCK_HALF] each
        d = pair[None, None, :]
        x_mask = row_exists & (d < HALF)
        x1 = tl.load(x_row + ROTARY_START + d, mask=x_mask)
        x2 = tl.load(x_row + ROTARY_START + HALF + d, mask=x_mask)

    # [BLOCK_T]
    if index_ptr is None:
        index = token
    else:
        index = tl.load(index_ptr + token * stride_index, mask=token_exists, other=0)
    # [BLOCK_T, BLOCK_HALF]
    if inv_freq_ptr is None:
        entry = index.to(tl.int64)[:, None] * HALF + pair[None, :]
        in_table = token_exists[:, None] & (pair < HALF)[None, :]
        cos = tl.load(cos_ptr + entry, mask=in_table, other=0.0)
        sin = tl.load(sin_ptr + entry, mask=in_table, other=0.0)
    else:
        # load inv_freq as wide as the angles, though all its rows are one: the compiler moves
        # arithmetic to the threads that hold x, once for each head, unless it begins with a load
        freq_ptr = inv_freq_ptr + pair[None, :] + tl.zeros_like(token)[:, None]
        inv_freq = tl.load(freq_ptr, mask=(pair < HALF)[None, :], other=0.0)
        cos, sin = cos_sin(index.to(tl.float64)[:, None] * inv_freq)
    # [BLOCK_T, 1, BLOCK_HALF]
    cos, sin = (cos * cos_scale)[:, None, :], (sin * sin_scale)[:, None, :]

    # [BLOCK_T, BLOCK_H, BLOCK_HALF]
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    y1 = (x1 * cos - x2 * sin).to(out_ptr.dtype.element_ty)
    y2 = (x2 * cos + x1 * sin).to(out_ptr.dtype.element_ty)
    if INTERLEAVED:
        y = tl.join(y1, y2).reshape(BLOCK_T, BLOCK_H, 2 * BLOCK_HALF)
        tl.store(out_row + ROTARY_START + d, y, mask=x_mask)
    else:
        tl.store(out_row + ROTARY_START + d, y1, mask=x_mask)
        tl.store(out_row + ROTARY_START + HALF + d, y2, mask=x_mask)

    if COPY_REST:
        # [BLOCK_T, BLOCK_H, BLOCK_REST]
        rest = tl.arange(0, BLOCK_REST)[None, None, :]
        rest_mask = row_exists & (rest < HEAD_DIM - ROTARY_DIM)
        first: tl.constexpr = ROTARY_DIM if ROTARY_START == 0 else 0
        x_rest = tl.load(x_row + first + rest, mask=rest_mask)
        tl.store(out_row + first + rest, x_rest, mask=rest_mask)
# fmt: on
