"""Which keys are seen: by some query of a tile, by all of them, and by each.

`place` is where a query is among the keys: the last query at the last key, those before the first
key at negative places. `behind` and `ahead` bound how far before and after its place it sees,
`chunk` is the length of the chunks it does not see beyond; each is None where there is no bound.
"""

import triton
import triton.language as tl


@triton.jit
def chunk_of(place, chunk):
    """Return which chunk a place is in: rounded down, also from before the first key."""
    found = place // chunk
    return found - (place < found * chunk).to(found.dtype)


@triton.jit
def seen_by_some(first, last, num_keys, behind, ahead, chunk):
    """Return start and end of the keys that places from `first` to `last` may see: int32."""
    low = tl.full((), 0, tl.int64)
    high = low + num_keys
    if behind is not None:
        low = tl.maximum(low, low + first - behind)
    if ahead is not None:
        high = tl.minimum(high, low * 0 + last + 1 + ahead)
    if chunk is not None:
        low = tl.maximum(low, chunk_of(first, chunk) * chunk)
        high = tl.minimum(high, (chunk_of(last, chunk) + 1).to(tl.int64) * chunk)
    return low.to(tl.int32), tl.maximum(low, high).to(tl.int32)


@triton.jit
def seen_by_all(first, last, num_keys, behind, ahead, chunk):
    """Return start and end of the keys that all places from `first` to `last` see."""
    low = tl.full((), 0, tl.int64)
    high = low + num_keys
    if behind is not None:
        low = tl.maximum(low, low + last - behind)
    if ahead is not None:
        high = tl.minimum(high, low * 0 + first + 1 + ahead)
    if chunk is not None:
        low = tl.maximum(low, chunk_of(last, chunk) * chunk)
        high = tl.minimum(high, (chunk_of(first, chunk) + 1).to(tl.int64) * chunk)
    return low.to(tl.int32), tl.maximum(low, high).to(tl.int32)


@triton.jit
def seen_by_index(low, high, k_index_ptr, num_keys, behind, ahead, chunk, SCAN: tl.constexpr):
    """Return start and end of the keys that indices from `low` to `high` may see.

    The indices of keys int64 `[num_keys]` are in any order; all of them are read.
    """
    start = num_keys
    end = num_keys * 0
    for at in range(0, num_keys, SCAN):
        key = at + tl.arange(0, SCAN)
        near = key < num_keys
        index = tl.load(k_index_ptr + key, mask=near, other=0)
        if behind is not None:
            near = near & (index >= low - behind)
        if ahead is not None:
            near = near & (index <= high + ahead)
        if chunk is not None:
            of_key = chunk_of(index, chunk)
            near = near & (of_key >= chunk_of(low, chunk)) & (of_key <= chunk_of(high, chunk))
        start = tl.minimum(start, tl.min(tl.where(near, key, num_keys), 0))
        end = tl.maximum(end, tl.max(tl.where(near, key + 1, 0), 0))
    return start, tl.maximum(start, end)


@triton.jit
def seen_by_each(place, index, exists, behind, ahead, chunk):
    """Return bool `[M, N]`: which keys at `index` `[N]` a query at `place` `[M]` sees."""
    distance = place[:, None] - index[None, :]
    seen = exists[None, :] & (distance == distance)
    if behind is not None:
        seen = seen & (distance <= behind)
    if ahead is not None:
        seen = seen & (distance >= -ahead)
    if chunk is not None:
        seen = seen & (chunk_of(place, chunk)[:, None] == chunk_of(index, chunk)[None, :])
    return seen
