"""Rows that share pages: fork and reorder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.errors import LayersDiffer
from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.reading import check_not_gone
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.structure import check_length, check_level, parts_of

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache


def forked_rows(
    cache: "KVCache", rows: Sequence[int], lengths: Sequence[int] | None, *, strict: bool
) -> list[list[Segment]]:
    """Return the segments of a fork, one list a row, without references to their pages yet.

    Raises:
        LengthConflict, LayersDiffer, RolledPast: as `KVCache.fork`.
    """
    now = cache.length
    if strict and any(
        lengths_of_layer[row] != now[row]
        for lengths_of_layer in cache.layer_lengths
        for row in rows
    ):
        raise LayersDiffer(cache.layer_lengths)
    if lengths is None:
        lengths = [now[number] for number in rows]
    for number, length in zip(rows, lengths, strict=True):
        check_length(length, now[number])
    forked = []
    for number, length in zip(rows, lengths, strict=True):
        row = cache.rows[number]
        segments = parts_of(row, 0, length, copy=True)
        check_not_gone(segments, cache.config.groups, row.page_tokens)
        forked.append(segments)
    return forked


def share(holdings: Holdings, source: Holdings, num_rows: int) -> None:
    """Reserve for a fork what it does not share, and add references to the pages of its rows.

    Raises:
        TooManyTokens, ArenaFull: as `Arena.reserve`; nothing is shared then.
    """
    holdings.join_family(source)
    try:
        holdings.reserve(
            [
                each.per_row * num_rows - holdings.num_unpaid(group) if each.per_row else 0
                for group, each in enumerate(holdings.reservations)
            ]
        )
    except BaseException:
        del holdings.family[holdings.number]
        raise
    for group in range(len(holdings.pools)):
        holdings.retain(group, holdings.held_with_repeats(group))


def reorder(cache: "KVCache", rows: Sequence[int]) -> None:
    """See `KVCache.reorder`."""
    check_level(cache)
    holdings = cache.holdings
    more = len(rows) - len(cache.rows)
    holdings.reserve([each.per_row * more for each in holdings.reservations])
    lengths = [cache.layer_lengths[0][number] for number in rows]
    reordered: list[Row] = []
    used: set[int] = set()
    copied: list[Segment] = []
    for number in rows:
        row = cache.rows[number]
        if number in used:
            segments = parts_of(row, 0, row.num_tokens, copy=True)
            copied += segments
            row = cache.new_row()
            row.set_segments(segments)
        used.add(number)
        reordered.append(row)
    dropped = [
        segment
        for number, row in enumerate(cache.rows)
        if number not in used
        for segment in row.segments
    ]
    cache.rows[:] = reordered
    for group in range(len(holdings.pools)):
        if copied:
            pages = [segment.tables[group].kept for segment in copied]
            holdings.retain(group, np.concatenate(pages))
        if dropped:
            pages = [segment.tables[group].kept for segment in dropped]
            holdings.release(group, np.concatenate(pages))
    for of_layer in (*cache.layer_lengths, *cache.append_starts):
        of_layer[:] = lengths
    holdings.settle()
