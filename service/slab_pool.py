"""Aligned memory by size: bodies are received into it, and rotated in place."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from service.buffer_pool import BufferPool
from service.memory_blocks import MIN_BUFFER_BYTES

ALIGNMENT = 64
"""Bytes of a cache line, and of the widest vector."""

MIN_SLAB_BYTES = 2**12


class _Memory(NamedTuple):
    view: memoryview
    address: int
    size: int


class Slab:
    """Leased memory. It returns to its pool when nothing refers to the slab.

    Code that uses the memory must keep a reference to the slab: a slice or a tensor of a small slab
    does not.
    """

    __slots__ = ("_memory", "_pool", "address", "memory")

    def __init__(self, pool: "SlabPool", memory: _Memory) -> None:
        self._pool = pool
        self._memory = memory
        self.memory, self.address, _ = memory
        """Writable bytes, at least as many as were leased; uninitialised. And the address of
        the first, a multiple of ALIGNMENT."""

    def __del__(self) -> None:
        self._pool.give_back(self._memory)


class SlabPool:
    """A pool of slabs. Thread-safe.

    Sizes have four steps for each power of two. Of each size the memory that returned last is
    leased first, while it is in the caches. Large slabs are leased from the buffer pool, so that
    all large bodies share one memory.

    No lock is held, as taking one costs more than all the rest: `append` and `pop` of a list are
    atomic. Only the number of idle bytes can be wrong when two threads change it at once; it is
    counted again wherever memory is allocated or freed.

    Args:
        max_idle_bytes: idle memory of small slabs to keep; more returns to the allocator.
        buffer_pool: large memory.
    """

    def __init__(self, max_idle_bytes: int, buffer_pool: BufferPool) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._buffer_pool = buffer_pool
        self._idle_bytes = 0
        self._idle: defaultdict[int, list[_Memory]] = defaultdict(list)  # by size

    def lease(self, num_bytes: int) -> Slab:
        """Return a slab of at least `num_bytes`."""
        if num_bytes <= MIN_SLAB_BYTES:
            size = MIN_SLAB_BYTES
        else:
            shift = (num_bytes - 1).bit_length() - 3
            size = ((num_bytes - 1 >> shift) + 1) << shift
        if size >= MIN_BUFFER_BYTES:
            view = self._buffer_pool.lease(max(num_bytes, MIN_BUFFER_BYTES))
            return Slab(self, _with_address(view))
        try:
            memory = self._idle[size].pop()
        except IndexError:
            self._count_idle()
            return Slab(self, _allocate(size))
        self._idle_bytes -= size
        return Slab(self, memory)

    def give_back(self, memory: _Memory) -> None:
        """Keep the memory of a small slab for the next one, up to the limit."""
        size = memory.size
        if size >= MIN_BUFFER_BYTES:
            return  # the buffer pool has its own way to see that nothing refers to it
        if self._idle_bytes + size <= self._max_idle_bytes:
            self._idle_bytes += size
            self._idle[size].append(memory)
        else:
            self._count_idle()

    def clear(self) -> None:
        """Return the idle memory of small slabs to the allocator."""
        for idle in [*self._idle.values()]:
            idle.clear()
        self._count_idle()

    def _count_idle(self) -> None:
        self._idle_bytes = sum(size * len(idle) for size, idle in [*self._idle.items()])


def _allocate(size: int) -> _Memory:
    """Return new memory for a small slab."""
    view, address, _ = _with_address(np.empty(size + ALIGNMENT, dtype=np.uint8).data)
    offset = -address % ALIGNMENT
    return _Memory(view[offset : offset + size], address + offset, size)


def _with_address(view: memoryview) -> _Memory:
    return _Memory(view, np.frombuffer(view, dtype=np.uint8).ctypes.data, len(view))
