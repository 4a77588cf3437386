"""Fast path for a step of decoding: one token a row, at the end of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import KeySegment, LayerPlan, RowPlan
from rope_core.kvcache.reading import key_segments
from rope_core.kvcache.writing import Writer

if TYPE_CHECKING:
    from rope_core.kvcache.cache_state import CacheState


def is_usual(cache: "CacheState", layer: int, rows: Sequence[int]) -> bool:
    """Return whether `plan_tokens` can plan: each row has a token, and its last segment is a run.

    Positions have one axis, the layer has reached the last segment, and max_tokens is not reached.
    """
    if cache.config.num_axes > 1:
        return False
    lengths = cache.layer_lengths[layer]
    most = cache.max_tokens
    for number in rows:
        row = cache.rows[number]
        if not row.segments:
            return False
        segment = row.segments[-1]
        length = lengths[number]
        if segment.is_listed or length < row.num_tokens - segment.num_tokens:
            return False
        if most is not None and length >= most:
            return False
    return True


def plan_tokens(
    cache: "CacheState", layer: int, rows: Sequence[int], counts: Sequence[int], *, attends: bool
) -> Pending:
    """Plan an append or a step of one token for each of `rows`; `counts` are all 1.

    Raises:
        ArenaFull: as `KVCache.plan`.
        RolledPast: as `KVCache.plan`.
    """
    group_number, layer_in_group = cache.group_of[layer]
    group = cache.config.groups[group_number]
    holdings = cache.holdings
    pool = holdings.pools[group_number]
    row_plans: list[RowPlan] = []
    pending = Pending()
    plan = LayerPlan(
        group, layer, pool, layer_in_group, row_plans, _NONE, None, None, dtype=cache.config.dtype
    )
    writer = Writer(holdings, pending, group_number, plan.copies, plan.clears)
    references = pool.reference_counts
    page_tokens = cache.arena.page_tokens
    lengths = cache.layer_lengths[layer]
    hides_old_keys = group.hides_old_keys
    slots: list[int] = []
    bases: list[int] = []
    positions: list[int] = []
    try:
        for number in rows:
            row = cache.rows[number]
            segment = row.segments[-1]
            length = lengths[number]
            if length == row.num_tokens:
                pending.appended.append((row, (segment, 1, False)))
                row.num_tokens += 1
                segment.num_tokens += 1
            offset = length + segment.num_tokens - row.num_tokens
            page, slot = divmod(segment.first_slot + offset, page_tokens)
            table = segment.tables[group_number]
            page_group = table[page] if page < table.num_pages else -1
            if page_group < 0 or references[page_group] != 1:
                slots.append(int(writer.slots(row, length, length + 1)))
            else:
                slots.append(page_group * page_tokens + slot)
            base = segment.base + offset
            bases.append(base)
            if not attends:
                row_plans.append(RowPlan(1, 0, (), _NO_INDEX, length + 1))
                continue
            index = segment.index + offset
            positions.append(base + segment.shift[0])
            if hides_old_keys or len(row.segments) > 1:
                keys = key_segments(row, group, group_number, length + 1, index)
            else:
                first_slot = segment.first_slot
                kept = table.kept
                keys = [KeySegment(kept, first_slot, length + 1, 0, segment.index, segment.shift)]
            row_plans.append(RowPlan(1, 1, keys, range(index, index + 1), length + 1))
    except BaseException:
        cache.undo(pending)
        raise
    plan.slots = np.array(slots, np.int64)
    if group.rope is not None:
        plan.base_positions = np.array(bases, np.int64)
        plan.q_positions = np.array(positions, np.int64)
    pending.layers.append(plan)
    pending.new_lengths.append((layer, rows, counts))
    return pending


_NONE = np.empty(0, np.int64)
_NO_INDEX = range(0)
