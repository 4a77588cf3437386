"""Offload: all pages of a cache move to the arena of another device, and back."""

from typing import TYPE_CHECKING

import numpy as np

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.errors import SharedPages
from rope_core.kvcache.holdings import Holdings
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import MovePlan, PageCopy

if TYPE_CHECKING:
    from rope_core.kvcache.cache import KVCache


def plan_offload(cache: "KVCache", host: Arena) -> Pending:
    """See `KVCache.plan_offload`."""
    if cache.shared_bytes:
        raise SharedPages("other caches hold pages of this one, and need them")
    pending = _plan_move(cache, host, None)
    reserved = cache.reserved_bytes
    commit = pending.on_commit

    def commit_offload() -> None:
        assert commit is not None, "set by _plan_move"
        commit()
        cache.bytes_to_restore = reserved

    pending.on_commit = commit_offload
    return pending


def plan_restore(cache: "KVCache", arena: Arena) -> Pending:
    """See `KVCache.plan_restore`."""
    pending = _plan_move(cache, arena, cache.max_tokens)
    commit = pending.on_commit

    def commit_restore() -> None:
        assert commit is not None, "set by _plan_move"
        commit()
        cache.bytes_to_restore = None

    pending.on_commit = commit_restore
    return pending


def _plan_move(cache: "KVCache", arena: Arena, max_tokens: int | None) -> Pending:
    """Plan to copy all pages of a cache to another arena, with a reservation for `max_tokens`."""
    source = cache.holdings
    target = Holdings(cache.config, arena, cache.rows, max_tokens, source.owner)
    new_pages: list[dict[int, int]] = [{} for _ in target.pools]
    moves = MovePlan()

    def give_new_pages_back() -> None:
        target.give_back([np.array([*pages.values()], np.int32) for pages in new_pages])

    def commit() -> None:
        former = [source.held_with_repeats(number) for number in range(len(source.pools))]
        for number, pages in enumerate(new_pages):
            for row in cache.rows:
                for segment in row.segments:
                    table = segment.tables[number].kept
                    table[:] = [pages[page_group] for page_group in table.tolist()]
                    target.retain(number, table)
            target.release(number, np.array([*pages.values()], np.int32))
        source.give_back(former)
        cache.holdings, cache.arena = target, arena

    try:
        target.reserve([each.per_row * cache.batch for each in target.reservations])
        for number, (pages, reservation) in enumerate(
            zip(new_pages, target.reservations, strict=True)
        ):
            for page_group in source.held(number).tolist():
                pages[page_group], _ = reservation.allocate(target.number, target.owner)
                copy = PageCopy(
                    source.pools[number], page_group, pages[page_group], reservation.pool
                )
                moves.copies.append(copy)
    except BaseException:
        give_new_pages_back()
        raise
    return Pending(moves=moves, on_commit=commit, on_discard=give_new_pages_back)
