"""Which keys a query sees: a range of key positions for each row of a tile.

Positions count from the first key: the last query has the position of the last key, and queries
before the first key have negative positions. Of a segment, they count from the start of its row. A
query sees `window_left` keys before its position, `window_right` keys after it, and nothing outside
its chunk of `chunk` keys. UNLIMITED stands for "no limit", so that all calls share one compiled
kernel.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from rope_core.config import AttentionConfig

UNLIMITED = 2**62
"""Value of `window_left`, `window_right` and `chunk` that hides nothing; limits are smaller."""


class KeyLimits(NamedTuple):
    """Which keys a query sees, as the kernels take it."""

    window_left: int
    window_right: int
    chunk: int


def key_limits(config: AttentionConfig) -> KeyLimits:
    """Return the limits that a config sets."""
    chunk = UNLIMITED if config.chunk is None else config.chunk
    if config.window is not None:
        return KeyLimits(config.window - 1, config.window_ahead, chunk)
    return KeyLimits(UNLIMITED, 0 if config.causal else UNLIMITED, chunk)


ANY_KEY = KeyLimits(UNLIMITED, UNLIMITED, UNLIMITED)
"""Limits that hide nothing."""

NO_LIMIT = tl.constexpr(UNLIMITED)
INT64_MIN = tl.constexpr(-(2**63))
INT64_MAX = tl.constexpr(2**63 - 1)


@triton.jit
def key_range(position, inputs):
    """Return the first and the last key position, int64, that a query at `position` sees.

    The results saturate at the ends of int64 and grow with `position`.
    """
    left = inputs.window_left.to(tl.int64)
    right = inputs.window_right.to(tl.int64)
    chunk = inputs.chunk.to(tl.int64)
    pos = position.to(tl.int64)
    first = tl.where(left < NO_LIMIT, tl.maximum(pos, INT64_MIN + left) - left, INT64_MIN)
    last = tl.where(right < NO_LIMIT, tl.minimum(pos, INT64_MAX - right) + right, INT64_MAX)
    if chunk < NO_LIMIT:
        length = chunk
        if position.dtype == tl.int32:
            # a 64-bit division is a function call; longer chunks hide no key of 32 bits
            length = tl.minimum(chunk, 2**31 - 1).to(tl.int32)
        start = (position // length * length).to(tl.int64)  # rounds towards zero
        previous = tl.maximum(start, INT64_MIN + chunk) - chunk
        start = tl.where(start > pos, previous, start)
        first = tl.maximum(first, start)
        last = tl.minimum(last, tl.minimum(start, INT64_MAX - (chunk - 1)) + (chunk - 1))
    return first, last


@triton.jit
def row_key_range(position, seq, inputs):
    """Return the first and the last key `[M]` that rows at `position` `[M]` see.

    These are int32 key numbers below those of the sequence; with an index, int64 key positions.
    """
    first, last = key_range(position, inputs)
    if inputs.k_index_ptr is None:
        if inputs.segment_ptr is not None:
            start = seq.first_key.to(tl.int64)
            first = tl.maximum(first, start) - start
            last = tl.minimum(last, start + seq.num_keys) - start
        first = tl.maximum(first, 0).to(tl.int32)
        last = tl.minimum(last, seq.num_keys - 1).to(tl.int32)
    return first, last


@triton.jit
def tile_key_range(low, high, seq, inputs):
    """Return the key numbers, int32, that rows at positions from `low` to `high` see.

    These are start and end of the keys that some row sees, then of those that all rows see.
    """
    low_first, low_last = key_range(low, inputs)
    high_first, high_last = key_range(high, inputs)
    keys = seq.num_keys.to(tl.int64)
    if inputs.segment_ptr is not None:
        offset = seq.first_key.to(tl.int64)
        low_first = tl.maximum(low_first, offset) - offset
        high_first = tl.maximum(high_first, offset) - offset
        low_last = tl.minimum(low_last, offset + keys) - offset
        high_last = tl.minimum(high_last, offset + keys) - offset
    start = tl.minimum(tl.maximum(low_first, 0), keys)
    end = tl.maximum(tl.minimum(high_last, keys - 1) + 1, start)
    inner_start = tl.minimum(tl.maximum(high_first, 0), keys)
    inner_end = tl.maximum(tl.minimum(low_last, keys - 1) + 1, inner_start)
    return start.to(tl.int32), end.to(tl.int32), inner_start.to(tl.int32), inner_end.to(tl.int32)


@triton.jit
def indexed_key_range(low, high, seq, inputs, BLOCK: tl.constexpr):
    """Return start and end, int32, of the keys that rows at positions from `low` to `high` see.

    Reads all key positions of the sequence, int64 in any order, BLOCK at a time.
    """
    first, _ = key_range(low, inputs)
    _, last = key_range(high, inputs)
    start = seq.num_keys
    end = seq.num_keys * 0
    for block_start in range(0, seq.num_keys, BLOCK):
        # [BLOCK]
        key = block_start + tl.arange(0, BLOCK)
        exists = key < seq.num_keys
        k_index = tl.load(inputs.k_index_ptr + seq.k_start + key, mask=exists, other=0)
        visible = exists & (k_index >= first) & (k_index <= last)
        start = tl.minimum(start, tl.min(tl.where(visible, key, seq.num_keys), 0))
        end = tl.maximum(end, tl.max(tl.where(visible, key + 1, 0), 0))
    return start, tl.maximum(start, end)
