"""Snapshots: the tokens of a cache as they are now, in the same pages."""

from collections.abc import Sequence

from rope_core.kvcache.arguments import check_rows
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.sharing import share
from rope_core.kvcache.structure import parts_of


def take_snapshot(cache: KVCache, rows: Sequence[int] | None = None) -> KVCache:
    """Return a cache that shares the pages of rows, up to their shortest layer; it is to be closed.

    It reserves nothing: it is for reading. The first token that is appended to a row of `cache`
    afterwards copies the last page.

    Args:
        cache: no operation of it is planned.
        rows: which, each once; None: all.

    Raises:
        ConfigError: no such rows.
    """
    if cache.holdings.pending is not None:
        raise RuntimeError("another operation of the cache has been planned")
    numbers = check_rows(cache.batch, rows)
    lengths = [cache.length[number] for number in numbers]
    copy = KVCache(cache.config, cache.arena, len(numbers), owner=cache.holdings.owner)
    for row, number, length in zip(copy.rows, numbers, lengths, strict=True):
        row.set_segments(parts_of(cache.rows[number], 0, length, copy=True))
    share(copy.holdings, cache.holdings, len(numbers))
    for of_layer in copy.layer_lengths:
        of_layer[:] = lengths
    copy.generation = cache.generation
    return copy
