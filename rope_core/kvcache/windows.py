"""Free the pages behind the window of a group."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.pool import PageGroups
from rope_core.kvcache.row import Row

if TYPE_CHECKING:
    from rope_core.kvcache.cache_state import CacheState


def release_behind_window(cache: "CacheState", group_number: int, rows: Sequence[int]) -> None:
    """Free pages of rows that lie wholly behind the window and the rollback of a group.

    The length of a row is that of its shortest layer, of any group: a truncation may come back to
    it. What the queries of the last append of each layer see is kept, so that it can be repeated.
    """
    group = cache.config.groups[group_number]
    window = group.attention.window
    if window is None:
        return
    starts = [cache.append_starts[layer] for layer in group.layers]
    removed = []
    for number in rows:
        last = min([each[number] for each in cache.layer_lengths]) - 1 - group.rollback
        last = min(last, *[each[number] for each in starts])
        if last >= 0:
            row = cache.rows[number]
            first_kept = row.index_of(last) - window + 1
            removed += _cut_behind(row, group_number, first_kept)
    if removed:
        cache.holdings.release(group_number, np.concatenate(removed))


def _cut_behind(row: Row, group_number: int, first_kept: int) -> list[PageGroups]:
    """Remove the pages of a row that have only indices below `first_kept`; return them."""
    removed = []
    for segment in row.segments:
        behind = first_kept - segment.index
        if behind <= 0:
            break
        table = segment.tables[group_number]
        if behind >= segment.num_tokens:
            pages = table.num_pages
        else:
            pages = (segment.first_slot + behind) // row.page_tokens
        if pages > table.gone:
            removed.append(table.cut_front(pages - table.gone))
    return removed
