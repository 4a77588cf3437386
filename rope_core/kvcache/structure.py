"""Changes of the segments of rows that move no bytes: truncate, evict, shift, attach."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rope_core.calls.rope_checks import MAX_POSITION
from rope_core.errors import ConfigError
from rope_core.kvcache.arguments import check_max_tokens
from rope_core.kvcache.errors import (
    LayersDiffer,
    LengthConflict,
    TooManySegments,
)
from rope_core.kvcache.pool import PageGroups
from rope_core.kvcache.reading import check_not_gone
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment, follows, join
from rope_core.kvcache.table import PageTable

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache

MAX_SEGMENTS = 64
"""Most segments of a row."""


def truncate(cache: "KVCache", lengths: Sequence[int]) -> None:
    """See `KVCache.truncate`."""
    changed = []
    for row, now, length in zip(cache.rows, cache.length, lengths, strict=True):
        check_length(length, now)
        if length < row.num_tokens:
            changed.append((row, parts_of(row, 0, length, keep_tables=True)))
    replace(cache, changed)
    for of_layer in (*cache.layer_lengths, *cache.append_starts):
        of_layer[:] = lengths


def evict(
    cache: "KVCache",
    rows: Sequence[int],
    starts: Sequence[int],
    stops: Sequence[int],
    *,
    close: bool,
) -> None:
    """See `KVCache.evict`."""
    check_level(cache)
    changed = []
    for number, start, stop in zip(rows, starts, stops, strict=True):
        row = cache.rows[number]
        check_range(row, start, stop)
        if start == stop:
            continue
        before = parts_of(row, 0, start)
        after = parts_of(row, stop, row.num_tokens, keep_tables=True)
        if close and after:
            moved = row.positions(stop, stop + 1) - row.positions(start, start + 1)
            delta = (-moved[:, 0]).tolist()
            check_can_shift(cache, delta)
            after = [_moved(segment, start - stop, delta) for segment in after]
        changed.append((row, before + after))
    replace(cache, changed)
    _set_lengths(cache)


def shift(
    cache: "KVCache",
    rows: Sequence[int],
    starts: Sequence[int],
    stops: Sequence[int],
    delta: Sequence[int],
) -> None:
    """See `KVCache.shift`."""
    check_level(cache)
    check_can_shift(cache, delta)
    changed = []
    for number, start, stop in zip(rows, starts, stops, strict=True):
        row = cache.rows[number]
        check_range(row, start, stop)
        if start < stop and any(delta):
            middle = [_moved(part, 0, delta) for part in parts_of(row, start, stop)]
            _check_positions("delta", middle)
            rest = parts_of(row, stop, row.num_tokens)
            changed.append((row, parts_of(row, 0, start) + middle + rest))
    replace(cache, changed)
    for row, _ in changed:
        join_adjacent(cache, row)


def attach(
    cache: "KVCache",
    source: "KVCache",
    start: int,
    stop: int,
    position: Sequence[int] | None,
) -> None:
    """See `KVCache.attach`."""
    _check_source(cache, source, start, stop)
    changed = []
    for number, row in enumerate(cache.rows):
        origin = source.rows[number if len(source.rows) > 1 else 0]
        if start == stop:
            continue
        check_max_tokens(number, row.num_tokens + stop - start, cache.max_tokens)
        first = position or [row.next_position()] * row.num_axes
        delta = (np.array(first) - origin.positions(start, start + 1)[:, 0]).tolist()
        check_can_shift(cache, delta)
        index = row.next_index()
        attached = []
        for part in parts_of(origin, start, stop, copy=True):
            moved = _moved(part, 0, delta)
            attached.append(moved.renumbered(index, moved.shift))
            index += part.num_tokens
        _check_positions("position", attached)
        changed.append((row, row.segments + attached))
    if source is not cache and changed:
        check_segments(cache, changed)
        cache.holdings.join_family(source.holdings)
    replace(cache, changed)
    _set_lengths(cache)


def check_length(length: int, now: int) -> None:
    """Raise LengthConflict unless a row has so many tokens in all layers."""
    if not 0 <= length <= now:
        raise LengthConflict(f"the row has {now:,} tokens, fewer than {length:,}")


def check_level(cache: "KVCache") -> None:
    """Raise LayersDiffer unless all layers have the same lengths."""
    if any(lengths != cache.layer_lengths[0] for lengths in cache.layer_lengths):
        raise LayersDiffer(cache.layer_lengths)


def check_range(row: Row, start: int, stop: int) -> None:
    """Raise ConfigError unless [start, stop) are places of a row."""
    if not 0 <= start <= stop <= row.num_tokens:
        expected = f"start <= stop, both in [0, {row.num_tokens}]"
        raise ConfigError("start, stop", expected, f"{start}, {stop}")


def check_can_shift(cache: "KVCache", delta: Sequence[int]) -> None:
    """Raise ConfigError where positions move and the turns of a rope do not add up."""
    ropes = [group.rope for group in cache.config.groups if group.rope is not None]
    if any(delta) and not all(rope.is_composable for rope in ropes):
        raise ConfigError("rope", "one whose turns add up, to move positions", "another")


def parts_of(
    row: Row, start: int, stop: int, *, keep_tables: bool = False, copy: bool = False
) -> list[Segment]:
    """Return segments of the tokens at places [start, stop), for `replace`.

    Tables of whole segments are taken over, not copied. With `keep_tables` those of parts of
    segments as well, where they have the same pages: no other part of the segment is used then.
    With `copy` all tables are copied.
    """
    return [
        segment.part(
            low,
            high,
            row.page_tokens,
            keep_tables=not copy and (keep_tables or high - low == segment.num_tokens),
        )
        for segment, low, high in row.parts(start, stop)
    ]


def check_segments(cache: "KVCache", changed: Sequence[tuple[Row, list[Segment]]]) -> None:
    """Raise TooManySegments, or RolledPast if a query at the end of a row sees a gone page."""
    for row, segments in changed:
        if len(segments) > MAX_SEGMENTS:
            raise TooManySegments(f"a row would have {len(segments)} segments")
        check_not_gone(segments, cache.config.groups, row.page_tokens)


def replace(cache: "KVCache", changed: Sequence[tuple[Row, list[Segment]]]) -> None:
    """Replace segments of rows, and keep count of the references to their pages.

    Raises:
        TooManySegments, RolledPast: as `check_segments`; nothing has changed then.
    """
    check_segments(cache, changed)
    before = [_tables(row.segments) for row, _ in changed]
    after = [_tables(segments) for _, segments in changed]
    for row, segments in changed:
        row.set_segments(segments)
    for group in range(len(cache.holdings.pools)):
        added = _only_in(after, before, group)
        removed = _only_in(before, after, group)
        if added:
            cache.holdings.retain(group, np.concatenate(added))
        if removed:
            cache.holdings.release(group, np.concatenate(removed))
    cache.holdings.settle()


def join_adjacent(cache: "KVCache", row: Row) -> None:
    """Join segments of a row whose numbers and slots run on."""
    joined: list[Segment] = []
    for segment in row.segments:
        if joined and follows(segment, joined[-1], row.page_tokens):
            for group, shared in enumerate(join(joined[-1], segment)):
                if shared is not None:
                    cache.holdings.pools[group].release(np.array([shared], np.int32))
        else:
            joined.append(segment)
    row.segments = joined


def _moved(segment: Segment, index_delta: int, delta: Sequence[int]) -> Segment:
    shift = [old + each for old, each in zip(segment.shift, delta, strict=True)]
    return segment.renumbered(segment.index + index_delta, shift)


def _check_positions(name: str, moved: Sequence[Segment]) -> None:
    """Raise ConfigError if tokens have been moved out of the range of positions."""
    for segment in moved:
        low, high = segment.base, segment.base + segment.num_tokens - 1
        if segment.listed is not None:
            low, high = int(segment.listed.min()), int(segment.listed.max())
        if low + min(segment.shift) < -MAX_POSITION or high + max(segment.shift) > MAX_POSITION:
            expected = "one that leaves the positions between -2**53 and 2**53"
            raise ConfigError(name, expected, "one beyond")


def _tables(segments: Sequence[Segment]) -> list[list[PageTable]]:
    return [segment.tables for segment in segments]


def _only_in(
    rows: list[list[list[PageTable]]], others: list[list[list[PageTable]]], group: int
) -> list[PageGroups]:
    """Return the pages of the tables of a group that `others` do not have."""
    in_others = {id(tables[group]) for row in others for tables in row}
    only = [tables[group] for row in rows for tables in row if id(tables[group]) not in in_others]
    return [table.kept for table in only if len(table.kept)]


def _set_lengths(cache: "KVCache") -> None:
    lengths = [row.num_tokens for row in cache.rows]
    for of_layer in (*cache.layer_lengths, *cache.append_starts):
        of_layer[:] = lengths


def _check_source(cache: "KVCache", source: "KVCache", start: int, stop: int) -> None:
    if source.config != cache.config:
        raise ConfigError("source", "of the same groups and dtypes", "another configuration")
    if source.arena is not cache.arena:
        raise ConfigError("source", "in the same arena", "another")
    if len(source.rows) not in (1, len(cache.rows)):
        expected = f"of 1 or {len(cache.rows)} rows"
        raise ConfigError("source", expected, f"{len(source.rows)} rows")
    check_level(cache)
    for number, row in enumerate(source.rows):
        check_range(row, start, stop)
        if any(lengths[number] < stop for lengths in source.layer_lengths):
            raise LayersDiffer(source.layer_lengths)
