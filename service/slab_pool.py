"""Aligned memory that is leased and released explicitly: bodies are received into it."""

from collections import defaultdict

import numpy as np

from service.buffer_pool import BufferPool
from service.memory_blocks import SMALLEST_BYTES, Block

ALIGNMENT = 64
"""Bytes of a cache line, and of the widest vector."""

SMALLEST_SLAB_BYTES = 2**12


class Slab:
    """Leased memory."""

    __slots__ = ("address", "block", "is_leased", "memory", "size")

    def __init__(self, memory: memoryview, address: int, block: Block | None = None) -> None:
        self.memory = memory
        """Writable bytes, at least as many as were asked for; uninitialised."""
        self.address = address
        """Address of the first byte, a multiple of ALIGNMENT."""
        self.size = len(memory)
        self.block = block
        """The block of the buffer pool that the slab is; None for a small slab."""
        self.is_leased = True


class SlabPool:
    """A pool of slabs. Not thread-safe: for the event loop alone.

    Sizes have four steps for each power of two. Of each size the slab released last is leased
    first, while it is in the caches. Large slabs are blocks of the buffer pool, so that all large
    bodies share one memory.

    Args:
        max_idle_bytes: idle memory of small slabs to keep.
        buffer_pool: large memory.
    """

    def __init__(self, max_idle_bytes: int, buffer_pool: BufferPool) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._buffer_pool = buffer_pool
        self._idle_bytes = 0
        self._idle: defaultdict[int, list[Slab]] = defaultdict(list)  # by size

    def lease(self, num_bytes: int) -> Slab:
        """Return a slab of at least `num_bytes`."""
        if num_bytes <= SMALLEST_SLAB_BYTES:
            size = SMALLEST_SLAB_BYTES
        elif num_bytes < SMALLEST_BYTES:
            shift = (num_bytes - 1).bit_length() - 3
            size = ((num_bytes - 1 >> shift) + 1) << shift
        else:
            return self._lease_large(num_bytes)
        idle = self._idle[size]
        if not idle:
            return _allocate(size)
        slab = idle.pop()
        self._idle_bytes -= size
        slab.is_leased = True
        return slab

    def release(self, slab: Slab) -> None:
        """Return a slab, once; nothing may use its memory after it.

        Raises:
            RuntimeError: the slab was released before.
        """
        if not slab.is_leased:
            raise RuntimeError("a slab was released twice")
        slab.is_leased = False
        if slab.block is not None:
            self._buffer_pool.give_back(slab.block)
        elif self._idle_bytes + slab.size <= self._max_idle_bytes:
            self._idle_bytes += slab.size
            self._idle[slab.size].append(slab)

    def _lease_large(self, num_bytes: int) -> Slab:
        block = self._buffer_pool.take(num_bytes)
        memory = memoryview(block.region.buffer)[block.offset : block.offset + block.size]
        return Slab(memory, block.address, block)


def _allocate(size: int) -> Slab:
    """Return a small slab in new memory."""
    array = np.empty(size + ALIGNMENT, dtype=np.uint8)
    offset = -array.ctypes.data % ALIGNMENT
    return Slab(array.data[offset : offset + size], array.ctypes.data + offset)
