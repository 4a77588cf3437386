"""Which keys a query sees: a range of key positions, found once for each row.

The position of a query counts from the first key: the last query has the position of the last key,
and queries before the first key have negative ones. A query sees `behind` keys before its position,
`ahead` keys after it, and nothing beyond its chunk of `chunk` keys. FAR stands for "no bound", so
that all calls share one compiled kernel.
"""

import triton
import triton.language as tl

FAR = 2**62
"""Value of `behind`, `ahead` and `chunk` where nothing is hidden. Real bounds are smaller."""

NO_BOUND = tl.constexpr(FAR)
LOWEST = tl.constexpr(-(2**63))
HIGHEST = tl.constexpr(2**63 - 1)


@triton.jit
def key_range(position, behind, ahead, chunk):
    """Return the first and the last key position, int64, that a query at `position` may see.

    Saturates at the ends of int64. Both results grow with `position`.
    """
    behind = behind.to(tl.int64)
    ahead = ahead.to(tl.int64)
    chunk = chunk.to(tl.int64)
    at = position.to(tl.int64)
    first = tl.where(behind < NO_BOUND, tl.maximum(at, LOWEST + behind) - behind, LOWEST)
    last = tl.where(ahead < NO_BOUND, tl.minimum(at, HIGHEST - ahead) + ahead, HIGHEST)
    if chunk < NO_BOUND:
        length = chunk
        if position.dtype == tl.int32:
            # a division in 64 bits is a call; chunks beyond 2**31 keys hide no key of 32 bits
            length = tl.minimum(chunk, 2**31 - 1).to(tl.int32)
        start = (position // length * length).to(tl.int64)  # rounds towards zero
        before = tl.maximum(start, LOWEST + chunk) - chunk
        start = tl.where(start > at, before, start)
        first = tl.maximum(first, start)
        last = tl.minimum(last, tl.minimum(start, HIGHEST - (chunk - 1)) + (chunk - 1))
    return first, last


@triton.jit
def row_key_range(position, num_keys, behind, ahead, chunk, INDEXED: tl.constexpr):
    """Return the first and the last key `[M]` that rows see.

    These are key numbers, int32, within `num_keys`; with INDEXED, key positions, int64.
    """
    first, last = key_range(position, behind, ahead, chunk)
    if not INDEXED:
        first = tl.maximum(first, 0).to(tl.int32)
        last = tl.minimum(last, num_keys - 1).to(tl.int32)
    return first, last


@triton.jit
def tile_key_range(low, high, num_keys, behind, ahead, chunk):
    """Return the keys that rows at positions from `low` to `high` see, int32 numbers.

    These are start and end of the keys that some row sees, then of those that all rows see.
    """
    low_first, low_last = key_range(low, behind, ahead, chunk)
    high_first, high_last = key_range(high, behind, ahead, chunk)
    keys = num_keys.to(tl.int64)
    start = tl.minimum(tl.maximum(low_first, 0), keys)
    end = tl.maximum(tl.minimum(high_last, keys - 1) + 1, start)
    inner_start = tl.minimum(tl.maximum(high_first, 0), keys)
    inner_end = tl.maximum(tl.minimum(low_last, keys - 1) + 1, inner_start)
    return start.to(tl.int32), end.to(tl.int32), inner_start.to(tl.int32), inner_end.to(tl.int32)


@triton.jit
def indexed_key_range(low, high, k_index_ptr, num_keys, behind, ahead, chunk, SCAN: tl.constexpr):
    """Return start and end, int32, of the keys that rows at positions from `low` to `high` see.

    The positions of the keys int64 `[num_keys]` are in any order; all of them are read.
    """
    first, _ = key_range(low, behind, ahead, chunk)
    _, last = key_range(high, behind, ahead, chunk)
    start = num_keys
    end = num_keys * 0
    for at in range(0, num_keys, SCAN):
        key = at + tl.arange(0, SCAN)
        exists = key < num_keys
        index = tl.load(k_index_ptr + key, mask=exists, other=0)
        near = exists & (index >= first) & (index <= last)
        start = tl.minimum(start, tl.min(tl.where(near, key, num_keys), 0))
        end = tl.maximum(end, tl.max(tl.where(near, key + 1, 0), 0))
    return start, tl.maximum(start, end)
