"""The kernel that writes new keys, rotated, and values into pages."""

import triton
import triton.language as tl

from rope_core.kernels.trig import cos_sin

NUMBERS = ["cos_scale", "sin_scale", "num_tokens", "num_heads", "stride_positions"]
STRIDES = [f"stride_{t}_{axis}" for t in ("k", "v") for axis in ("token", "head")]
PAGES = [f"stride_{t}_{axis}" for t in ("key", "value") for axis in ("page", "head")]


# fmt: off
@triton.jit(
    do_not_specialize=NUMBERS + STRIDES + PAGES,
    do_not_specialize_on_alignment=["slots_ptr", "positions_ptr", "inv_freq_ptr"],
)
def scatter_kernel(
    k_ptr,  # [tokens, Hkv, HEAD_DIM], strides in units of STRIDE_UNIT, the last is 1 element
    v_ptr,  # as k, with VALUE_DIM
    key_ptr,  # pages [pages, Hkv, PAGE_SIZE, HEAD_DIM], slots of a head contiguous
    value_ptr,  # as key_ptr, with VALUE_DIM
    slots_ptr,  # [tokens] int64: page * PAGE_SIZE + slot of each token
    positions_ptr,  # [tokens] int64, or None where nothing rotates
    inv_freq_ptr,  # [HALF] float64, or None
    cos_scale: tl.float32, sin_scale: tl.float32,  # multiply cosines and sines
    num_tokens: tl.int64, num_heads: tl.int32, stride_positions: tl.int64,
    stride_k_token: tl.int64, stride_k_head: tl.int64,
    stride_v_token: tl.int64, stride_v_head: tl.int64,
    stride_key_page: tl.int64, stride_key_head: tl.int64,
    stride_value_page: tl.int64, stride_value_head: tl.int64,
    HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, ROTARY_DIM: tl.constexpr,
    ROTARY_START: tl.constexpr,  # the first rotated element of a head
    INTERLEAVED: tl.constexpr, PAGE_SIZE: tl.constexpr, STRIDE_UNIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,  # tokens, heads
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,  # powers of two that hold a head
    BLOCK_HALF: tl.constexpr,  # power of two, >= HALF
) -> None:
    """Write BLOCK_H heads of BLOCK_T tokens, k and v."""
    HALF: tl.constexpr = ROTARY_DIM // 2
    num_blocks = tl.cdiv(num_heads, BLOCK_H)
    program = tl.program_id(0)
    # [BLOCK_T], int64 before any product
    token = (program // num_blocks).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    token_exists = token < num_tokens
    # [BLOCK_H]
    head = (program % num_blocks * BLOCK_H + tl.arange(0, BLOCK_H)).to(tl.int64)
    # [BLOCK_T]
    slots = tl.load(slots_ptr + token, mask=token_exists, other=0).to(tl.int64)
    page, slot = slots // PAGE_SIZE, slots % PAGE_SIZE
    # [BLOCK_T, BLOCK_H]
    k_row = token[:, None] * stride_k_token + head[None, :] * stride_k_head
    v_row = token[:, None] * stride_v_token + head[None, :] * stride_v_head
    key_row = page[:, None] * stride_key_page + head[None, :] * stride_key_head
    value_row = page[:, None] * stride_value_page + head[None, :] * stride_value_head
    # [BLOCK_T, BLOCK_H, 1]
    exists = (token_exists[:, None] & (head < num_heads)[None, :])[:, :, None]
    k_from = k_ptr + (k_row * STRIDE_UNIT)[:, :, None]
    v_from = v_ptr + (v_row * STRIDE_UNIT)[:, :, None]
    k_to = key_ptr + (key_row * STRIDE_UNIT + slot[:, None] * HEAD_DIM)[:, :, None]
    v_to = value_ptr + (value_row * STRIDE_UNIT + slot[:, None] * VALUE_DIM)[:, :, None]

    # [BLOCK_T, BLOCK_H, BLOCK_DV]
    d = tl.arange(0, BLOCK_DV)[None, None, :]
    in_value = exists & (d < VALUE_DIM)
    tl.store(v_to + d, tl.load(v_from + d, mask=in_value, other=0.0), mask=in_value)

    if inv_freq_ptr is None:
        # [BLOCK_T, BLOCK_H, BLOCK_D]
        d = tl.arange(0, BLOCK_D)[None, None, :]
        in_key = exists & (d < HEAD_DIM)
        tl.store(k_to + d, tl.load(k_from + d, mask=in_key, other=0.0), mask=in_key)
    else:
        # [BLOCK_HALF]
        pair = tl.arange(0, BLOCK_HALF)
        if INTERLEAVED:
            # [BLOCK_T, BLOCK_H, 2 * BLOCK_HALF]
            d = tl.arange(0, 2 * BLOCK_HALF)[None, None, :]
            rotates = exists & (d < ROTARY_DIM)
            x = tl.load(k_from + ROTARY_START + d, mask=rotates, other=0.0)
            # [BLOCK_T, BLOCK_H, BLOCK_HALF] each
            x1, x2 = tl.split(x.reshape(BLOCK_T, BLOCK_H, BLOCK_HALF, 2))
        else:
            d = pair[None, None, :]
            rotates = exists & (d < HALF)
            x1 = tl.load(k_from + ROTARY_START + d, mask=rotates, other=0.0)
            x2 = tl.load(k_from + ROTARY_START + HALF + d, mask=rotates, other=0.0)
        position = tl.load(positions_ptr + token * stride_positions, mask=token_exists, other=0)
        # as wide as the angles, though all its rows are one: see `rotary_kernel`
        freq_ptr = inv_freq_ptr + pair[None, :] + tl.zeros_like(token)[:, None]
        inv_freq = tl.load(freq_ptr, mask=(pair < HALF)[None, :], other=0.0)
        # [BLOCK_T, BLOCK_HALF]
        cos, sin = cos_sin(position.to(tl.float64)[:, None] * inv_freq)
        # [BLOCK_T, 1, BLOCK_HALF]
        cos, sin = (cos * cos_scale)[:, None, :], (sin * sin_scale)[:, None, :]
        # [BLOCK_T, BLOCK_H, BLOCK_HALF]
        x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
        y1 = (x1 * cos - x2 * sin).to(key_ptr.dtype.element_ty)
        y2 = (x2 * cos + x1 * sin).to(key_ptr.dtype.element_ty)
        if INTERLEAVED:
            y = tl.join(y1, y2).reshape(BLOCK_T, BLOCK_H, 2 * BLOCK_HALF)
            tl.store(k_to + ROTARY_START + d, y, mask=rotates)
        else:
            tl.store(k_to + ROTARY_START + d, y1, mask=rotates)
            tl.store(k_to + ROTARY_START + HALF + d, y2, mask=rotates)
        if ROTARY_DIM < HEAD_DIM:
            # the elements that pass through
            d = tl.arange(0, BLOCK_D)[None, None, :]
            passes = exists & (d < HEAD_DIM)
            passes = passes & ((d < ROTARY_START) | (d >= ROTARY_START + ROTARY_DIM))
            tl.store(k_to + d, tl.load(k_from + d, mask=passes, other=0.0), mask=passes)
# fmt: on
