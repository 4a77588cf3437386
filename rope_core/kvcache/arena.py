"""The memory of all caches of a device: one tensor, cut into slabs."""

import torch

from rope_core.kvcache.pool import PagePool, PageShape

SLAB_BYTES = 64 * 2**20


class Arena:
    """Memory for pages, and its reservations. For one thread.

    Args:
        num_bytes: of the arena.
        device: of the tensor.
        page_tokens: tokens of a page, P.
        slab_bytes: a slab belongs to one page shape at a time, and comes back when it is empty.
        copy_reserve: share of the memory that reservations cannot take, so that a copy on write
            finds a page.
    """

    def __init__(
        self,
        num_bytes: int,
        device: torch.device | str = "cpu",
        *,
        page_tokens: int = 64,
        slab_bytes: int = SLAB_BYTES,
        copy_reserve: float = 0.05,
    ) -> None:
        raise NotImplementedError

    num_bytes: int
    page_tokens: int
    reserved_bytes: int
    """Sum of all reservations."""
    used_bytes: int
    """Pages that have a reference."""
    free_bytes: int
    """What a further reservation may take."""

    def pool(self, shape: PageShape) -> PagePool:
        """Return the pool of pages of a shape; one for each shape."""
        raise NotImplementedError

    def reserve(self, num_bytes: int) -> None:
        """Add to the reservations.

        Raises:
            TooManyTokens: it could never fit.
            ArenaFull: it does not fit now.
        """
        raise NotImplementedError

    def unreserve(self, num_bytes: int) -> None:
        """Give back a part of the reservations."""
        raise NotImplementedError
