"""Compaction: adjacent segments of a row are joined by rewriting the shorter one."""

from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import IntArray, Move, MovePlan, PageCopy
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.structure import check_level, replace
from rope_core.kvcache.table import PageTable
from rope_core.kvcache.writing import slots_of

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache


def plan_compaction(cache: "KVCache", max_segments: int) -> Pending | None:
    """See `KVCache.plan_compaction`."""
    if all(len(row.segments) <= max_segments for row in cache.rows):
        return None
    check_level(cache)
    pairs = {number: _pairs(row, max_segments) for number, row in enumerate(cache.rows)}
    if not any(pairs.values()):
        return None
    compaction = _Compaction(cache)
    try:
        changed = [
            (cache.rows[number], compaction.joined_segments(cache.rows[number], firsts))
            for number, firsts in pairs.items()
            if firsts
        ]
    except BaseException:
        compaction.release_pages()
        cache.holdings.settle()
        raise

    def commit() -> None:
        replace(cache, changed)
        compaction.release_pages()

    return Pending(moves=compaction.moves, on_commit=commit, on_discard=compaction.release_pages)


def _pairs(row: Row, max_segments: int) -> list[int]:
    """Return the first of each pair of segments to join; no segment is in two pairs."""
    candidates = [
        (min(first.num_tokens, second.num_tokens), number)
        for number, (first, second) in enumerate(zip(row.segments, row.segments[1:], strict=False))
        if _can_join(first, second, row.page_tokens)
    ]
    chosen: set[int] = set()
    for _, number in sorted(candidates):
        if len(row.segments) - len(chosen) <= max_segments:
            break
        if not chosen.intersection((number - 1, number + 1)):
            chosen.add(number)
    return sorted(chosen)


def _can_join(first: Segment, second: Segment, page_tokens: int) -> bool:
    """Return whether the index goes on by one, and all tokens to move or in between are stored."""
    if second.index != first.index + first.num_tokens:
        return False
    if any(table.gone for table in second.tables):
        return False
    if second.num_tokens <= first.num_tokens:
        end_page = -(-first.end_slot // page_tokens)
        return all(table.gone < end_page for table in first.tables)
    return not any(table.gone for table in first.tables)


class _Compaction:
    """The moves of a compaction, and the new pages, each with one reference."""

    def __init__(self, cache: "KVCache") -> None:
        self.config = cache.config
        self.holdings: Holdings = cache.holdings
        self.moves = MovePlan()
        self._new: list[tuple[int, int]] = []

    def release_pages(self) -> None:
        """Release the pages of the plan."""
        for group, page_group in self._new:
            self.holdings.release(group, np.array([page_group], np.int32))
        self._new = []

    def joined_segments(self, row: Row, firsts: list[int]) -> list[Segment]:
        """Return the segments of a row, with the pairs that begin at `firsts` joined."""
        segments: list[Segment] = []
        number = 0
        while number < len(row.segments):
            segment = row.segments[number]
            if number in firsts:
                segment = self._joined(segment, row.segments[number + 1], row.page_tokens)
                number += 1
            segments.append(segment)
            number += 1
        return segments

    def _joined(self, first: Segment, second: Segment, page_tokens: int) -> Segment:
        moves_second = second.num_tokens <= first.num_tokens
        kept, moved = (first, second) if moves_second else (second, first)
        delta = np.subtract(moved.shift, kept.shift)
        if moves_second:
            first_slot, start = first.first_slot, first.num_tokens
        else:
            first_slot, start = (second.first_slot - first.num_tokens) % page_tokens, 0
        num_tokens = first.num_tokens + second.num_tokens
        tables = [
            self._table(number, kept, first_slot, num_tokens, page_tokens, at_end=moves_second)
            for number in range(len(kept.tables))
        ]
        bases = [part.base_positions(0, part.num_tokens) for part in (first, second)]
        bases[moves_second] = bases[moves_second] + delta[:, None]
        joined = Segment(
            first.index,
            0,
            kept.shift,
            first_slot,
            tables,
            num_tokens,
            np.concatenate(bases, axis=1),
        )
        joined.simplify()
        for number in range(len(tables)):
            self._move(number, joined, moved, start, delta, page_tokens)
        return joined

    def _table(
        self,
        group: int,
        kept: Segment,
        first_slot: int,
        num_tokens: int,
        page_tokens: int,
        *,
        at_end: bool,
    ) -> PageTable:
        """Return the pages of a joined segment: those of `kept`, and new ones beside them."""
        table = kept.tables[group]
        pages = table.kept.tolist()
        used = kept.end_slot % page_tokens if at_end else kept.first_slot
        if used and pages:
            edge = -1 if at_end else 0
            pages[edge] = self._writable(group, pages[edge])
        num_missing = -(-(first_slot + num_tokens) // page_tokens) - table.num_pages
        new = [self._allocate(group) for _ in range(num_missing)]
        joined = pages + new if at_end else new + pages
        return PageTable(np.array(joined, np.int32), table.gone)

    def _writable(self, group: int, page_group: int) -> int:
        """Return the page group, or a new copy of it if it has other references."""
        pool = self.holdings.pools[group]
        if pool.references[page_group] == 1:
            return page_group
        copy = self._allocate(group)
        self.moves.copies.append(PageCopy(pool, page_group, copy))
        return copy

    def _allocate(self, group: int) -> int:
        holdings = self.holdings
        page_group, must_clear = holdings.reservations[group].allocate(
            holdings.number, holdings.owner
        )
        self._new.append((group, page_group))
        if must_clear:
            self.moves.clears.append((holdings.pools[group], page_group))
        return page_group

    def _move(
        self,
        number: int,
        joined: Segment,
        moved: Segment,
        start: int,
        delta: IntArray,
        page_tokens: int,
    ) -> None:
        group = self.config.groups[number]
        count = moved.num_tokens
        sources = slots_of(moved, number, 0, count, page_tokens)
        targets = slots_of(joined, number, start, start + count, page_tokens)
        move = Move(self.holdings.pools[number], group, sources, targets)
        if group.rope is not None and delta.any():
            each = np.repeat(delta[:, None], count, axis=1)
            bases = moved.base_positions(0, count)
            move.delta = each[0] if group.num_axes == 1 else each
            move.positions = bases[0] if group.num_axes == 1 else bases
        self.moves.moves.append(move)
