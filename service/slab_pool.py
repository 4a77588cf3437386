"""Aligned memory by size class: bodies are received into it, and rotated in place."""

from collections import defaultdict

import torch

ALIGNMENT = 64
"""Bytes of a cache line."""


class Slab:
    """Leased memory. It returns to its pool when nothing refers to the slab."""

    __slots__ = ("_owner", "_pool", "address", "memory")

    def __init__(self, pool: "SlabPool", owner: torch.Tensor) -> None:
        self._pool = pool
        self._owner = owner
        self.address = owner.data_ptr()
        self.memory = owner.numpy().data

    def __del__(self) -> None:
        self._pool.give_back(self._owner)


class SlabPool:
    """A pool of slabs."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[torch.Tensor]] = defaultdict(list)

    def lease(self, num_bytes: int) -> Slab:
        """Return writable memory of at least `num_bytes`, uninitialised, aligned to 64 bytes."""
        size = 1 << max(12, (num_bytes - 1).bit_length())
        idle = self._idle[size]
        return Slab(self, idle.pop() if idle else _allocate(size))

    def give_back(self, owner: torch.Tensor) -> None:
        """Keep the memory of a slab for the next one."""
        self._idle[owner.numel()].append(owner)


def _allocate(size: int) -> torch.Tensor:
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + size]
