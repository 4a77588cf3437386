"""Operations on all layers that move no bytes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.errors import LengthConflict
from rope_core.kvcache.pool import PageGroups
from rope_core.kvcache.reading import check_not_gone
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache


def truncate(cache: "KVCache", lengths: Sequence[int]) -> None:
    """See `KVCache.truncate`."""
    changed: list[tuple[Row, list[Segment]]] = []
    for row, now, length in zip(cache.rows, cache.length, lengths, strict=True):
        check_length(length, now)
        if length < row.num_tokens:
            segments = keep(row, 0, length)
            check_not_gone(segments, cache.config.groups, row.page_tokens)
            changed.append((row, segments))
    replace(cache, changed)
    for of_layer in cache.layer_lengths:
        of_layer[:] = lengths


def check_length(length: int, now: int) -> None:
    """Raise LengthConflict unless a row has so many tokens in all layers."""
    if not 0 <= length <= now:
        raise LengthConflict(f"the row has {now:,} tokens, fewer than {length:,}")


def keep(row: Row, start: int, stop: int) -> list[Segment]:
    """Return segments of the tokens at places [start, stop); those that are whole are the row's
    own."""
    return [
        segment
        if high - low == segment.num_tokens and _is_trimmed(segment, row.page_tokens)
        else segment.part(low, high, row.page_tokens)
        for segment, low, high in row.parts(start, stop)
    ]


def replace(cache: "KVCache", changed: Sequence[tuple[Row, list[Segment]]]) -> None:
    """Replace segments of rows, and keep count of the references to their pages."""
    retained: list[tuple[int, PageGroups]] = []
    released: list[tuple[int, PageGroups]] = []
    for row, segments in changed:
        before = {id(segment): segment for segment in row.segments}
        after = {id(segment): segment for segment in segments}
        for key, segment in after.items():
            if key not in before:
                retained += [(g, table.kept) for g, table in enumerate(segment.tables)]
        for key, segment in before.items():
            if key not in after:
                released += [(g, table.kept) for g, table in enumerate(segment.tables)]
        row.set_segments(segments)
    for group in range(len(cache.holdings.pools)):
        added = [pages for g, pages in retained if g == group]
        removed = [pages for g, pages in released if g == group]
        if added:
            cache.holdings.retain(group, np.concatenate(added))
        if removed:
            cache.holdings.release(group, np.concatenate(removed))
    cache.holdings.settle()


def _is_trimmed(segment: Segment, page_tokens: int) -> bool:
    """Tell whether no table has pages behind the last token."""
    end = -(-segment.end_slot // page_tokens)
    return all(table.num_pages <= end for table in segment.tables)
