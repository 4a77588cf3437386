"""The references of a cache to pages, and its reservations."""

from collections.abc import Sequence

import numpy as np

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.config import KVConfig
from rope_core.kvcache.errors import ArenaFull, TooManyTokens
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.pool import PageGroups, PagePool, PageShape
from rope_core.kvcache.reservation import Reservation, groups_per_row
from rope_core.kvcache.row import Row


class Holdings:
    """The references and reservations of one cache, for each group of layers.

    Caches that share pages are a family. Each page group in use is part of the reservation of one
    cache that refers to it, its payer. When the payer releases the page group, the oldest cache of
    the family that refers to it becomes the payer.

    Args:
        rows: of the cache. The list is changed in place when rows come or go.
        owner: of the data of the pages, see `PagePool.allocate`.

    Raises:
        TooManyTokens, ArenaFull: as `Arena.reserve`.
    """

    def __init__(
        self,
        config: KVConfig,
        arena: Arena,
        rows: list[Row],
        max_tokens: int | None,
        owner: object,
    ) -> None:
        self.arena = arena
        self.number = arena.next_cache_number()
        """Of the cache; later ones have larger numbers."""
        self.owner = owner
        self.rows = rows
        self.pending: Pending | None = None
        """The operation that waits for `commit` or `discard`."""
        self.family: dict[int, Holdings] = {self.number: self}
        self.pools: list[PagePool] = []
        self.reservations: list[Reservation] = []
        for group in config.groups:
            shape = PageShape(
                len(group.layers),
                group.num_kv_heads,
                group.head_dim,
                group.value_dim,
                arena.page_tokens,
                config.storage_dtype,
            )
            pool = arena.pool(shape)
            per_row = groups_per_row(group, max_tokens, arena.page_tokens)
            self.pools.append(pool)
            self.reservations.append(Reservation(arena, pool, per_row))

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the arena that are reserved."""
        return sum(each.reserved * each.pool.shape.group_bytes for each in self.reservations)

    def reserve(self, num_groups: Sequence[int]) -> None:
        """Reserve further page groups of each group of layers, all or none."""
        done: list[tuple[Reservation, int]] = []
        try:
            for reservation, num in zip(self.reservations, num_groups, strict=True):
                reservation.grow(num)
                done.append((reservation, max(0, num)))
        except (ArenaFull, TooManyTokens):
            for reservation, num in done:
                reservation.shrink(num)
            raise

    def retain(self, group: int, page_groups: PageGroups) -> None:
        """Add a reference to each page group."""
        self.pools[group].retain(page_groups)

    def release(self, group: int, page_groups: PageGroups) -> None:
        """Remove a reference from each page group, which the tables no longer have.

        Another cache of the family becomes the payer of those that this cache paid for.
        """
        if not len(page_groups):
            return
        pool = self.pools[group]
        num_freed = pool.release(page_groups)
        self.reservations[group].paid -= num_freed
        if len(self.family) == 1 or num_freed == len(page_groups):
            return
        left = np.unique(page_groups)
        left = left[(pool.references[left] > 0) & (pool.payers[left] == self.number)]
        if len(left):
            left = np.setdiff1d(left, self.held(group), assume_unique=True)
        if len(left):
            self._hand_over(group, left)

    def settle(self) -> None:
        """Set the reservations to what the rows may need now."""
        for group, reservation in enumerate(self.reservations):
            if reservation.per_row or reservation.paid != reservation.reserved:
                reservation.settle(len(self.rows), self.num_unpaid(group))

    def num_bytes(self, *, shared: bool) -> int:
        """Return the bytes of pages to which other caches refer, or of all others."""
        num_bytes = 0
        for group, pool in enumerate(self.pools):
            held, counts = np.unique(self.held_with_repeats(group), return_counts=True)
            is_shared = pool.references[held] != counts
            num_bytes += int((is_shared == shared).sum()) * pool.shape.group_bytes
        return num_bytes

    def held(self, group: int) -> PageGroups:
        """Return the page groups of all rows, each once, in ascending order."""
        held = np.sort(self.held_with_repeats(group))
        is_first = np.ones(len(held), bool)  # faster than np.unique
        np.not_equal(held[1:], held[:-1], out=is_first[1:])
        return held[is_first]

    def held_with_repeats(self, group: int) -> PageGroups:
        """Return the page groups of all rows, each as often as it has a reference."""
        tables = [segment.tables[group].kept for row in self.rows for segment in row.segments]
        if self.pending is not None:
            replaced = [each[3] for each in self.pending.replaced if each[0] == group]
            tables.append(np.array(replaced, np.int32))
        return np.concatenate(tables) if tables else np.empty(0, np.int32)

    def num_unpaid(self, group: int) -> int:
        """Return how many page groups have other payers and would not be copied by an append."""
        if len(self.family) == 1:
            return 0
        held = self.held(group)
        unpaid = held[self.pools[group].payers[held] != self.number]
        partial = {
            segment.tables[group][segment.end_slot // row.page_tokens]
            for row in self.rows
            for segment in row.segments[-1:]
            if segment.end_slot % row.page_tokens
            and segment.end_slot // row.page_tokens < segment.tables[group].num_pages
        }
        payers = self.pools[group].payers
        return len(unpaid) - sum(int(payers[each]) != self.number for each in partial)

    def join_family(self, other: "Holdings") -> None:
        """Make one family of those of this cache and of another, which share pages."""
        if self.family is other.family:
            return
        members = {**self.family, **other.family}
        family = {number: members[number] for number in sorted(members)}
        for member in members.values():
            member.family = family

    def give_up(self) -> None:
        """Give back all pages and reservations; the rows are empty afterwards."""
        held = [self.held_with_repeats(group) for group in range(len(self.pools))]
        for row in self.rows:
            row.set_segments([])
        self.give_back(held)

    def give_back(self, held: Sequence[PageGroups]) -> None:
        """Give back all reservations, and pages of each group that the rows no longer have."""
        for group, page_groups in enumerate(held):
            self.release(group, page_groups)
            reservation = self.reservations[group]
            reservation.shrink(reservation.reserved)
        del self.family[self.number]
        self.family = {self.number: self}

    def _hand_over(self, group: int, page_groups: PageGroups) -> None:
        """Find other payers in the family for page groups that this cache has released."""
        pool, reservation = self.pools[group], self.reservations[group]
        for number, member in sorted(self.family.items()):
            if member is self or not len(page_groups):
                continue
            taken = np.intersect1d(page_groups, member.held(group), assume_unique=True)
            if not len(taken):
                continue
            pool.payers[taken] = number
            reservation.paid -= len(taken)
            reservation.shrink(min(len(taken), reservation.reserved - reservation.paid))
            other = member.reservations[group]
            other.paid += len(taken)
            other.settle(len(member.rows), member.num_unpaid(group))
            page_groups = np.setdiff1d(page_groups, taken, assume_unique=True)
