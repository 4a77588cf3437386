"""Slots of new tokens: pages are allocated, and shared ones copied."""

import numpy as np

from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import IntArray, LayerPlan, PageCopy
from rope_core.kvcache.row import Row
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.table import PageTable


def slots_to_write(
    holdings: Holdings,
    pending: Pending,
    plan: LayerPlan,
    row: Row,
    group: int,
    start: int,
    stop: int,
) -> int | IntArray:
    """Return the slots of the tokens at places [start, stop), for a layer to write to.

    Missing pages are allocated, and pages that others hold are copied, all noted in `pending` and
    in the copies of `plan`.

    Raises:
        ArenaFull: the caller discards `pending`.
    """
    page_tokens = row.page_tokens
    number, first = row.find(start)
    segment = row.segments[number]
    if stop == start + 1 and stop <= first + segment.num_tokens:
        page, slot = divmod(segment.first_slot + start - first, page_tokens)
        table = segment.tables[group]
        if page < table.num_pages:
            if holdings.pools[group].references[table[page]] != 1:
                _copy_if_shared(holdings, pending, plan, row, group, segment, page, slot, slot)
        else:
            _add_page(holdings, pending, plan, row, group, number)
            if page == 0 and slot:
                _copy_if_shared(holdings, pending, plan, row, group, segment, page, slot, slot)
        return table[page] * page_tokens + slot
    parts = []
    for segment, low, high in row.parts(start, stop):
        _prepare(holdings, pending, plan, row, group, segment, low, high)
        parts.append(slots_of(segment, group, low, high, page_tokens))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def slots_of(segment: Segment, group: int, start: int, stop: int, page_tokens: int) -> IntArray:
    """Return page group * page_tokens + slot of tokens [start, stop) of a segment."""
    table = segment.tables[group]
    slots = np.arange(segment.first_slot + start, segment.first_slot + stop)
    pages = table.kept[slots // page_tokens - table.gone].astype(np.int64)
    return pages * page_tokens + slots % page_tokens


def _prepare(
    holdings: Holdings,
    pending: Pending,
    plan: LayerPlan,
    row: Row,
    group: int,
    segment: Segment,
    low: int,
    high: int,
) -> None:
    page_tokens = row.page_tokens
    first, last = segment.first_slot + low, segment.first_slot + high - 1
    first_page, last_page = first // page_tokens, last // page_tokens
    table = segment.tables[group]
    num_present = table.num_pages
    number = row.segments.index(segment)
    while table.num_pages <= last_page:
        _add_page(holdings, pending, plan, row, group, number)
    end = max(num_present, 1) if segment.first_slot else num_present
    end = min(end, last_page + 1)
    if end <= first_page:
        return
    present = table.kept[first_page - table.gone : end - table.gone]
    shared = np.nonzero(holdings.pools[group].references[present] != 1)[0]
    for page in (shared + first_page).tolist():
        low_slot = max(first - page * page_tokens, 0)
        high_slot = min(last - page * page_tokens, page_tokens - 1)
        _copy_if_shared(holdings, pending, plan, row, group, segment, page, low_slot, high_slot)


def _add_page(
    holdings: Holdings, pending: Pending, plan: LayerPlan, row: Row, group: int, number: int
) -> None:
    """Add a page to a segment: the one in which the segment before ends, or a new one."""
    segment = row.segments[number]
    table = segment.tables[group]
    if not table.num_pages and segment.first_slot:
        before = row.segments[number - 1]
        page_group = before.tables[group][before.end_slot // row.page_tokens]
        holdings.pools[group].retain(np.array([page_group], np.int32))
    else:
        page_group, must_clear = holdings.reservations[group].allocate(
            holdings.number, holdings.owner
        )
        if must_clear:
            plan.clears.append(page_group)
    table.append(page_group)
    pending.allocated.append((group, table, page_group))


def _copy_if_shared(
    holdings: Holdings,
    pending: Pending,
    plan: LayerPlan,
    row: Row,
    group: int,
    segment: Segment,
    page: int,
    low_slot: int,
    high_slot: int,
) -> None:
    """Copy a page of a segment, unless all that hold it are segments of this row, in other slots
    than those that are written, [low_slot, high_slot]."""
    pool = holdings.pools[group]
    page_group = segment.tables[group][page]
    holders: list[tuple[PageTable, int]] = []
    for other in row.segments:
        table = other.tables[group]
        for each in (np.nonzero(table.kept == page_group)[0] + table.gone).tolist():
            first = other.first_slot if each == 0 else 0
            end = min(other.end_slot - each * row.page_tokens, row.page_tokens)
            is_apart = end <= low_slot or first > high_slot
            if is_apart or (other is segment and each == page):
                holders.append((table, each))
    if pool.references[page_group] == len(holders):
        return
    copy, _ = holdings.reservations[group].allocate(holdings.number, holdings.owner, for_copy=True)
    pool.references[copy] = len(holders)
    for table, each in holders:
        table[each] = copy
        pending.replaced.append((group, table, each, page_group))
    plan.copies.append(PageCopy(pool, page_group, copy))
