"""Slots of new tokens: allocate pages, and copy shared ones on write."""

import numpy as np

from rope_core.kvcache.errors import ArenaFull
from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import IntArray, PageCopy
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.table import PageTable


class Writer:
    """Makes pages of one group of layers ready to be written to.

    Missing pages are allocated, and pages with other references are copied. All is recorded in
    `pending`, which the caller discards if a method raises ArenaFull.

    Args:
        copies: takes the copies to run before anything is written.
        clears: takes the page groups to set to 0 before.
    """

    __slots__ = ("clears", "copies", "group", "holdings", "pending", "references")

    def __init__(
        self,
        holdings: Holdings,
        pending: Pending,
        group: int,
        copies: list[PageCopy],
        clears: list[int],
    ) -> None:
        self.holdings = holdings
        self.pending = pending
        self.group = group
        self.copies = copies
        self.clears = clears
        self.references = holdings.pools[group].references

    def slots(self, row: Row, start: int, stop: int) -> int | IntArray:
        """Return the slots of the tokens at places [start, stop): page group * P + slot."""
        if stop > start + 1:
            parts = []
            for segment, low, high in row.parts(start, stop):
                self.prepare(row, segment, low, high)
                parts.append(slots_of(segment, self.group, low, high, row.page_tokens))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        page_tokens = row.page_tokens
        number, first = row.find(start)
        segment = row.segments[number]
        page, slot = divmod(segment.first_slot + start - first, page_tokens)
        table = segment.tables[self.group]
        if page == table.num_pages:
            self._add_page(row, number)
            is_new = page or not slot
        else:
            is_new = False
        page_group = table[page]
        if not is_new and self.references[page_group] != 1:
            self._copy_if_shared(row, segment, page, slot, slot)
            page_group = table[page]
        return page_group * page_tokens + slot

    def prepare(self, row: Row, segment: Segment, low: int, high: int) -> None:
        """Make the pages of tokens [low, high) of a segment ready."""
        page_tokens = row.page_tokens
        first, last = segment.first_slot + low, segment.first_slot + high - 1
        first_page, last_page = first // page_tokens, last // page_tokens
        table = segment.tables[self.group]
        end = table.num_pages
        if last_page >= end:
            self._add_pages(row, row.segments.index(segment), last_page + 1 - end)
            if segment.first_slot:
                end = max(end, 1)
        end = min(end, last_page + 1)
        if end <= first_page:
            return
        present = table.kept[first_page - table.gone : end - table.gone]
        shared = np.nonzero(self.references[present] != 1)[0]
        for page in (shared + first_page).tolist():
            low_slot = max(first - page * page_tokens, 0)
            high_slot = min(last - page * page_tokens, page_tokens - 1)
            self._copy_if_shared(row, segment, page, low_slot, high_slot)

    def _add_pages(self, row: Row, number: int, count: int) -> None:
        """Add pages to a segment. ArenaFull has the bytes of all of them."""
        num_added = 0
        try:
            while num_added < count:
                self._add_page(row, number)
                num_added += 1
        except ArenaFull as full:
            size = self.holdings.pools[self.group].shape.group_bytes
            raise ArenaFull(count * size, full.free_bytes + num_added * size) from None

    def _add_page(self, row: Row, number: int) -> None:
        """Add a page to a segment: the one in which the segment before ends, or a new one."""
        holdings = self.holdings
        segment = row.segments[number]
        table = segment.tables[self.group]
        if not table.num_pages and segment.first_slot:
            before = row.segments[number - 1]
            page_group = before.tables[self.group][before.end_slot // row.page_tokens]
            self.references[page_group] += 1
        else:
            reservation = holdings.reservations[self.group]
            page_group, must_clear = reservation.allocate(holdings.number, holdings.owner)
            if must_clear:
                self.clears.append(page_group)
        table.append(page_group)
        self.pending.allocated.append((self.group, table, page_group))

    def _copy_if_shared(
        self, row: Row, segment: Segment, page: int, low_slot: int, high_slot: int
    ) -> None:
        """Copy a page of a segment, unless only segments of this row have it, in other slots.

        [low_slot, high_slot] are written.
        """
        page_group = segment.tables[self.group][page]
        holders: list[tuple[PageTable, int]] = []
        for other in row.segments:
            table = other.tables[self.group]
            for each in (np.nonzero(table.kept == page_group)[0] + table.gone).tolist():
                first = other.first_slot if each == 0 else 0
                end = min(other.end_slot - each * row.page_tokens, row.page_tokens)
                is_apart = end <= low_slot or first > high_slot
                if is_apart or (other is segment and each == page):
                    holders.append((table, each))
        if self.references[page_group] == len(holders):
            return
        reservation = self.holdings.reservations[self.group]
        copy, _ = reservation.allocate(self.holdings.number, self.holdings.owner, for_copy=True)
        self.references[copy] = len(holders)
        for table, each in holders:
            table[each] = copy
            self.pending.replaced.append((self.group, table, each, page_group))
        self.copies.append(PageCopy(reservation.pool, page_group, copy))


def slots_of(segment: Segment, group: int, start: int, stop: int, page_tokens: int) -> IntArray:
    """Return page group * page_tokens + slot of tokens [start, stop) of a segment."""
    table = segment.tables[group]
    slots = np.arange(segment.first_slot + start, segment.first_slot + stop)
    pages = table.kept[slots // page_tokens - table.gone].astype(np.int64)
    return pages * page_tokens + slots % page_tokens
