"""Aligned memory by size: bodies are received into it, and rotated in place."""

import threading
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


class Slab:
    """Leased memory. It returns to its pool when nothing refers to the slab.

    Code that uses the memory must keep a reference to the slab: a slice or a tensor of a small slab
    does not.
    """

    __slots__ = ("_memory", "_pool", "address", "memory")

    def __init__(self, pool: "SlabPool", memory: _Memory) -> None:
        self._pool = pool
        self._memory = memory
        self.memory = memory.view
        """Writable bytes, at least as many as were asked for; uninitialised."""
        self.address = memory.address
        """Address of the first byte, a multiple of ALIGNMENT."""

    def __del__(self) -> None:
        self._pool.give_back(self._memory)


class SlabPool:
    """A pool of slabs. Thread-safe.

    Sizes have four steps for each power of two. Of each size the memory that returned last is
    leased first, while it is in the caches. Large slabs are leased from the buffer pool, so that
    all large bodies share one memory.

    Args:
        max_idle_bytes: idle memory of small slabs to keep; more returns to the allocator.
        buffer_pool: large memory.
    """

    def __init__(self, max_idle_bytes: int, buffer_pool: BufferPool) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._buffer_pool = buffer_pool
        self._idle_bytes = 0
        self._idle: defaultdict[int, list[_Memory]] = defaultdict(list)  # by size
        # reentrant: the garbage collector may return a slab while its thread holds the lock
        self._lock = threading.RLock()

    def lease(self, num_bytes: int) -> Slab:
        """Return a slab of at least `num_bytes`."""
        if num_bytes <= MIN_SLAB_BYTES:
            size = MIN_SLAB_BYTES
        else:
            shift = (num_bytes - 1).bit_length() - 3
            size = ((num_bytes - 1 >> shift) + 1) << shift
        if size >= MIN_BUFFER_BYTES:
            memory = self._buffer_pool.lease(max(num_bytes, MIN_BUFFER_BYTES))
            return Slab(self, _with_address(memory))
        with self._lock:
            idle = self._idle[size]
            if idle:
                self._idle_bytes -= size
                return Slab(self, idle.pop())
        return Slab(self, _allocate(size))

    def give_back(self, memory: _Memory) -> None:
        """Keep the memory of a small slab for the next one, up to the limit."""
        size = len(memory.view)
        if size >= MIN_BUFFER_BYTES:
            return  # it returns to the buffer pool when nothing refers to it
        with self._lock:
            if self._idle_bytes + size <= self._max_idle_bytes:
                self._idle_bytes += size
                self._idle[size].append(memory)


def _allocate(size: int) -> _Memory:
    """Return new memory for a small slab."""
    memory = _with_address(np.empty(size + ALIGNMENT, dtype=np.uint8).data)
    offset = -memory.address % ALIGNMENT
    return _Memory(memory.view[offset : offset + size], memory.address + offset)


def _with_address(view: memoryview) -> _Memory:
    return _Memory(view, np.frombuffer(view, dtype=np.uint8).ctypes.data)
