"""Reservations: the page groups of a cache that the arena keeps for it."""

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.errors import ArenaFull, TooManyTokens
from rope_core.kvcache.pool import PagePool

LARGEST_PIECE = 2_048
"""Tokens that a windowed group can take at once within its reservation; more need free memory."""


class Reservation:
    """Page groups of a cache in one group of layers.

    `paid` of them are allocated: each page group in use is part of the reservation of one cache
    that refers to it. With max_tokens the reservation is what the rows may become, without shared
    pages that are part of other reservations. Without max_tokens it is what is allocated.
    """

    __slots__ = ("arena", "paid", "per_row", "pool", "reserved")

    def __init__(self, arena: Arena, pool: PagePool, per_row: int) -> None:
        self.arena = arena
        self.pool = pool
        self.per_row = per_row
        """Page groups that a row may need; 0 without max_tokens."""
        self.paid = 0
        self.reserved = 0

    def grow(self, num_groups: int, *, for_copy: bool = False) -> None:
        """Reserve further page groups. Raises as `Arena.reserve`."""
        self.arena.reserve(self.pool, num_groups, for_copy=for_copy)
        self.reserved += max(0, num_groups)

    def shrink(self, num_groups: int) -> None:
        """Give reserved page groups back."""
        self.arena.unreserve(self.pool, num_groups)
        self.reserved -= num_groups

    def allocate(self, payer: int, owner: object, *, for_copy: bool = False) -> tuple[int, bool]:
        """Return a page group as `PagePool.allocate`; grow if the whole reservation is in use.

        Raises:
            ArenaFull: too little memory is free.
        """
        grows = self.paid >= self.reserved
        if grows:
            self.grow(1, for_copy=for_copy)
        try:
            allocated = self.pool.allocate(payer, owner)
        except ArenaFull:
            if grows:
                self.shrink(1)
            raise
        self.paid += 1
        return allocated

    def settle(self, num_rows: int, num_unpaid: int) -> None:
        """Set the reservation to what the rows may need; leave it if too little memory is free.

        Args:
            num_rows: rows of the cache.
            num_unpaid: page groups that have other payers and that need no copy.
        """
        wanted = max(self.paid, self.per_row * num_rows - num_unpaid)
        if wanted < self.reserved:
            self.shrink(self.reserved - wanted)
        elif wanted > self.reserved:
            try:
                self.grow(wanted - self.reserved)
            except (ArenaFull, TooManyTokens):
                # what is paid for is always reserved: the page groups were part of another
                # reservation a moment ago
                if self.reserved < self.paid:
                    self.grow(self.paid - self.reserved, for_copy=True)


def groups_per_row(group: KVGroup, max_tokens: int | None, page_tokens: int) -> int:
    """Return the page groups that a row of up to `max_tokens` may need in a group of layers."""
    if max_tokens is None:
        return 0
    most = -(-max_tokens // page_tokens)
    if group.attention.window is None:
        return most
    # what the last append has seen is kept until the next has run
    kept = group.attention.window + group.rollback + 2 * LARGEST_PIECE
    return min(most, -(-kept // page_tokens) + 1)
