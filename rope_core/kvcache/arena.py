"""The memory of all caches of a device: one tensor, cut into slabs."""

import numpy as np
import torch
from torch import Tensor

from rope_core.kvcache.errors import ArenaFull, TooManyTokens
from rope_core.kvcache.pool import NOBODY, SEVERAL, PagePool, PageShape

SLAB_BYTES = 64 * 2**20
"""Bytes of a slab, unless the arena is small."""

MIN_SLABS = 16
"""Least number of slabs of an arena, so that pages of several shapes find room."""

MEMORY_PAGE = 4_096
"""Slabs are multiples of this many bytes."""


class Arena:
    """Memory for pages, and its reservations. For one thread.

    Reserved memory can be allocated: the slabs that pools have, or need for their reservations,
    never exceed those of the arena. Page groups of several slabs are an exception: the slabs must
    be adjacent, and after slabs were freed in another order `ArenaFull` may be raised.

    Args:
        num_bytes: of the arena.
        device: of the tensor. On the CPU memory is touched when it is first used.
        page_tokens: tokens of a page, P.
        slab_bytes: a slab belongs to one page shape at a time, and comes back when it is empty.
            None: 64 MiB, or less in a small arena.
        is_pinned: whether memory of the host is page-locked, for fast copies to and from a GPU.
        copy_reserve: share of the memory that reservations cannot take, so that a copy on write
            finds a page.
    """

    def __init__(
        self,
        num_bytes: int,
        device: torch.device | str = "cpu",
        *,
        page_tokens: int = 64,
        slab_bytes: int | None = None,
        is_pinned: bool = False,
        copy_reserve: float = 0.05,
    ) -> None:
        if slab_bytes is None:
            aligned = num_bytes // MIN_SLABS // MEMORY_PAGE * MEMORY_PAGE
            slab_bytes = max(MEMORY_PAGE, min(SLAB_BYTES, aligned))
        self.num_bytes = num_bytes
        self.page_tokens = page_tokens
        self.slab_bytes = slab_bytes
        self.num_slabs = num_bytes // slab_bytes
        self.memory: Tensor = _allocate(num_bytes, torch.device(device), is_pinned=is_pinned)
        """uint8 `[num_bytes]`."""
        self.reserved_bytes = 0
        """Sum of all reservations."""
        self.num_copied_pages = 0
        """Pages that were copied on write."""
        self._limit_bytes = int(num_bytes * (1 - copy_reserve))
        self._pools: dict[PageShape, PagePool] = {}
        self._taken = bytearray(self.num_slabs)
        self._owners: list[object] = [NOBODY] * self.num_slabs
        self._committed: dict[PageShape, int] = {}
        self._num_committed = 0
        self._num_caches = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of pages that have a reference."""
        return sum(pool.num_used * pool.shape.group_bytes for pool in self._pools.values())

    @property
    def free_bytes(self) -> int:
        """What a further reservation may take."""
        in_slabs = (self.num_slabs - self._num_committed) * self.slab_bytes
        in_pools = sum(self._room(pool) * pool.shape.group_bytes for pool in self._pools.values())
        return max(0, min(self._limit_bytes - self.reserved_bytes, in_slabs + in_pools))

    def count_pages(self) -> dict[str, int]:
        """Return the numbers of page groups: used, reserved, and free for further reservations.

        Free ones are as large as the largest that a pool has.
        """
        group_bytes = max((pool.shape.group_bytes for pool in self._pools.values()), default=0)
        return {
            "used": sum(pool.num_used for pool in self._pools.values()),
            "reserved": sum(pool.num_reserved for pool in self._pools.values()),
            "free": self.free_bytes // group_bytes if group_bytes else 0,
        }

    def pool(self, shape: PageShape) -> PagePool:
        """Return the pool of pages of a shape; one for each shape."""
        pool = self._pools.get(shape)
        if pool is None:
            pool = self._pools[shape] = PagePool(self, shape)
            self._committed[shape] = 0
        return pool

    @property
    def pools(self) -> list[PagePool]:
        """All pools."""
        return [*self._pools.values()]

    def next_cache_number(self) -> int:
        """Return a number for a new cache; later caches have larger ones."""
        self._num_caches += 1
        return self._num_caches

    def reserve(self, pool: PagePool, num_groups: int, *, for_copy: bool = False) -> None:
        """Add page groups to the reservations; `for_copy` may use the share kept for copies.

        Raises:
            TooManyTokens: they could never fit.
            ArenaFull: they do not fit now.
        """
        if num_groups <= 0:
            return
        num_bytes = num_groups * pool.shape.group_bytes
        limit = self.num_bytes if for_copy else self._limit_bytes
        most = self.num_slabs // pool.slabs_per_unit * pool.groups_per_unit
        if num_groups > most or num_bytes > limit:
            raise TooManyTokens(
                f"{num_bytes:,} bytes are needed, and the arena has {self._limit_bytes:,}"
            )
        free_units = (self.num_slabs - self._num_committed) // pool.slabs_per_unit
        room = self._room(pool) + free_units * pool.groups_per_unit
        if num_groups > room or self.reserved_bytes + num_bytes > limit:
            free = min(room * pool.shape.group_bytes, limit - self.reserved_bytes)
            raise ArenaFull(num_bytes, max(0, free))
        pool.num_reserved += num_groups
        self.reserved_bytes += num_bytes
        self.recount(pool)

    def unreserve(self, pool: PagePool, num_groups: int) -> None:
        """Remove page groups from the reservations."""
        pool.num_reserved -= num_groups
        self.reserved_bytes -= num_groups * pool.shape.group_bytes
        self.recount(pool)

    def recount(self, pool: PagePool) -> None:
        """Update the count of the slabs that a pool has or needs, after one of the two changed."""
        needed = -(-pool.num_reserved // pool.groups_per_unit) * pool.slabs_per_unit
        committed = max(pool.num_slabs, needed)
        self._num_committed += committed - self._committed[pool.shape]
        self._committed[pool.shape] = committed

    def take_slabs(self, pool: PagePool) -> tuple[int, object]:
        """Give adjacent free slabs to a pool; return the first, and the owner of their old data.

        Raises:
            ArenaFull: there are no such slabs.
        """
        count = pool.slabs_per_unit
        find = self._taken.find if count == 1 else self._taken.rfind
        start = find(bytes(count))
        if start < 0:
            free = self._taken.count(0) * self.slab_bytes
            raise ArenaFull(count * self.slab_bytes, free)
        self._taken[start : start + count] = b"\1" * count
        owners = {*self._owners[start : start + count]} - {NOBODY}
        if len(owners) > 1:
            return start, SEVERAL
        return start, owners.pop() if owners else NOBODY

    def free_slabs(self, pool: PagePool, start: int, owner: object) -> None:
        """Free slabs of `take_slabs`, which now have the data of `owner`."""
        count = pool.slabs_per_unit
        self._taken[start : start + count] = bytes(count)
        self._owners[start : start + count] = [owner] * count

    def _room(self, pool: PagePool) -> int:
        """Return the page groups that a pool can reserve without further slabs."""
        units = self._committed[pool.shape] // pool.slabs_per_unit
        return units * pool.groups_per_unit - pool.num_reserved


def _allocate(num_bytes: int, device: torch.device, *, is_pinned: bool) -> Tensor:
    if is_pinned:
        return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True)
    if device.type != "cpu":
        return torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    # calloc of numpy leaves memory untouched, zero_() of torch would not
    memory = np.zeros(num_bytes + MEMORY_PAGE, np.uint8)
    start = -memory.ctypes.data % MEMORY_PAGE
    return torch.from_numpy(memory[start : start + num_bytes])
