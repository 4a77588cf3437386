"""Snapshots: the tokens of a cache as they are now, in the same pages."""

from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.sharing import share
from rope_core.kvcache.structure import check_level, parts_of


def take_snapshot(cache: KVCache, *, strict: bool = False) -> KVCache:
    """Return a cache that shares the pages of another, up to the shortest layer of each row.

    It reserves nothing: it is for reading, and to be closed. The first token that is appended to a
    row of `cache` afterwards copies the last page.

    Args:
        cache: no operation of it is planned.
        strict: whether to refuse where layers have different lengths.

    Raises:
        LayersDiffer: `strict`, and layers have different lengths.
    """
    if cache.holdings.pending is not None:
        raise RuntimeError("another operation of the cache has been planned")
    if strict:
        check_level(cache)
    lengths = cache.length
    copy = KVCache(cache.config, cache.arena, cache.batch, owner=cache.holdings.owner)
    for row, source, length in zip(copy.rows, cache.rows, lengths, strict=True):
        row.set_segments(parts_of(source, 0, length, copy=True))
    share(copy.holdings, cache.holdings, cache.batch)
    for of_layer in copy.layer_lengths:
        of_layer[:] = lengths
    copy.generation = cache.generation
    return copy
