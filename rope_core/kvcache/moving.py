"""Operations that move or rewrite tokens in pages: select_tail and rebase."""

from collections.abc import Sequence
from dataclasses import replace as with_fields
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rope_core.errors import ConfigError
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.errors import LengthConflict, SharedPages
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import IntArray, Move, MovePlan, PageCopy
from rope_core.kvcache.reading import rolled_past
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.structure import (
    check_level,
    check_segments,
    join_adjacent,
    parts_of,
    replace,
)
from rope_core.kvcache.writing import Writer, slots_of

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache


def plan_select_tail(cache: "KVCache", num_tail: int, kept: Sequence[Sequence[int]]) -> Pending:
    """See `KVCache.plan_select_tail`."""
    for row, offsets in zip(cache.rows, kept, strict=True):
        if num_tail > row.num_tokens:
            raise LengthConflict(f"the row has {row.num_tokens:,} tokens, fewer than {num_tail:,}")
        steps = [-1, *offsets, num_tail]
        if any(first >= second for first, second in pairwise(steps)):
            raise ConfigError("kept", f"increasing offsets below {num_tail}", list(offsets))
    check_level(cache)
    moves = MovePlan()
    pending = Pending(moves=moves)
    try:
        changed = [
            (row, _selected(cache, row, num_tail, offsets, pending, moves))
            for row, offsets in zip(cache.rows, kept, strict=True)
            if len(offsets) < num_tail or _has_parts(row, num_tail)
        ]
        check_segments(cache, changed)
    except BaseException:
        cache.undo(pending)
        raise

    def commit() -> None:
        replace(cache, changed)
        for row, _ in changed:
            join_adjacent(cache, row)
        for of_layer in cache.layer_lengths:
            of_layer[:] = [row.num_tokens for row in cache.rows]
        cache.generation += 1

    pending.on_commit = commit
    return pending


def plan_rebase(
    cache: "KVCache", groups: Sequence[int], to: Sequence[KVGroup], *, copy: bool
) -> Pending:
    """See `KVCache.plan_rebase`."""
    check_level(cache)
    if not copy and cache.shared_bytes:
        raise SharedPages("other caches hold pages of this one: rebase a copy of them")
    moves = MovePlan()
    pending = Pending(moves=moves)
    new_pages: dict[int, dict[int, int]] = {}
    holdings = cache.holdings

    def release_new_pages() -> None:
        for number, pages in new_pages.items():
            holdings.release(number, np.array([*pages.values()], np.int32))

    try:
        for number, group in zip(groups, to, strict=True):
            pages = new_pages.setdefault(number, {})
            reservation = holdings.reservations[number]
            for page_group in holdings.held(number).tolist():
                pages[page_group], _ = reservation.allocate(holdings.number, holdings.owner)
                moves.copies.append(PageCopy(reservation.pool, page_group, pages[page_group]))
            moves.moves += _rotated(cache, number, group, pages)
    except BaseException:
        release_new_pages()
        holdings.settle()
        raise

    def commit() -> None:
        former = [(number, holdings.held_with_repeats(number)) for number in new_pages]
        for number, pages in new_pages.items():
            for row in cache.rows:
                for segment in row.segments:
                    table = segment.tables[number]
                    renamed = [pages[page_group] for page_group in table.kept.tolist()]
                    table.kept[:] = renamed
                    holdings.retain(number, table.kept)
        for number, page_groups in former:
            holdings.release(number, page_groups)
        release_new_pages()
        changed = dict(zip(groups, to, strict=True))
        config = cache.config
        new = tuple(changed.get(i, group) for i, group in enumerate(config.groups))
        cache.config = with_fields(config, groups=new)
        cache.generation += 1

    pending.on_commit = commit
    pending.on_discard = release_new_pages
    return pending


def _has_parts(row: Row, num_tail: int) -> bool:
    """Return whether the last tokens of a row are in several segments: indices may jump."""
    return num_tail > 1 and num_tail > row.segments[-1].num_tokens


def _selected(
    cache: "KVCache",
    row: Row,
    num_tail: int,
    offsets: Sequence[int],
    pending: Pending,
    moves: MovePlan,
) -> list[Segment]:
    """Return the segments of a row after a select_tail, and add its moves to the plan."""
    cut = row.num_tokens - num_tail
    index = row.index_of(cut)
    tail: list[tuple[Segment, int, IntArray]] = []
    first = 0
    for segment, low, high in row.parts(cut, row.num_tokens):
        kept = [low + offset - first for offset in offsets if first <= offset < first + high - low]
        first += high - low
        if not kept:
            continue
        sources = np.array(kept, np.int64)
        tail.append((segment, low, sources))
        num_in_place = int((sources == np.arange(low, low + len(kept))).sum())
        if num_in_place < len(kept):
            _move_forward(cache, row, segment, low, sources, num_in_place, pending, moves)
    segments = parts_of(row, 0, cut)
    for segment, low, sources in tail:
        part = segment.part(low, low + len(sources), row.page_tokens)
        part.index = index
        part.listed = np.concatenate(
            [segment.base_positions(each, each + 1) for each in sources.tolist()], axis=1
        )
        part.simplify()
        index += len(sources)
        segments.append(part)
    return segments


def _move_forward(
    cache: "KVCache",
    row: Row,
    segment: Segment,
    low: int,
    sources: IntArray,
    num_in_place: int,
    pending: Pending,
    moves: MovePlan,
) -> None:
    """Move tokens `sources` of a segment to its places from `low` on.

    The first `num_in_place` of them are in their places already.
    """
    page_tokens = row.page_tokens
    moved = sources[num_in_place:]
    start, stop = low + num_in_place, low + len(sources)
    for number, group in enumerate(cache.config.groups):
        if segment.num_gone(number, page_tokens) > start:
            raise rolled_past(number)
        writer = Writer(cache.holdings, pending, number, moves.copies, [])
        writer.prepare(row, segment, start, stop)
        # after all copies: a page that is read may have been copied as well
        slots = slots_of(segment, number, start, int(moved[-1]) + 1, page_tokens)
        targets = slots[: stop - start]
        moves.moves.append(
            Move(writer.holdings.pools[number], group, slots[moved - start], targets)
        )


def _rotated(cache: "KVCache", number: int, to: KVGroup, pages: dict[int, int]) -> list[Move]:
    """Return the move that rotates all keys of a group by another rope, in new pages."""
    group = cache.config.groups[number]
    if group.rope is None:
        raise ConfigError("to", f"absent: group {number} has no rope", "a rope")
    slots, positions = [], []
    for row in cache.rows:
        for segment in row.segments:
            first = max(0, segment.num_gone(number, row.page_tokens))
            slots.append(slots_of(segment, number, first, segment.num_tokens, row.page_tokens))
            positions.append(segment.base_positions(first, segment.num_tokens))
    if not slots:
        return []
    sources, once = np.unique(np.concatenate(slots), return_index=True)
    if not len(sources):
        return []
    page_tokens = cache.arena.page_tokens
    former, which = np.unique(sources // page_tokens, return_inverse=True)
    renamed = np.array([pages[page_group] for page_group in former.tolist()], np.int64)
    targets = renamed[which] * page_tokens + sources % page_tokens
    bases = np.concatenate(positions, axis=1)[:, once]
    if group.num_axes == 1:
        bases = bases[0]
    return [Move(cache.holdings.pools[number], group, sources, targets, to=to, positions=bases)]
