"""Large buffers, reused: the first write to new memory costs many times a copy.

A buffer is leased as a memoryview. It returns to the pool once nothing refers to it: no slice, no
tensor made from it, and no socket that has yet to send it.
"""

import math
import mmap
import threading
import weakref
from bisect import bisect_left, insort

import numpy as np
import torch
from torch import Tensor

from service.pinned_memory import MemoryPinner, PinnedMemory

SMALLEST_BYTES = 2**20
"""The allocator reuses smaller memory as well as the pool would."""

PREALLOCATED_BYTES = sorted(2 * tuple(4**step * 2**20 for step in range(5)))
"""Buffers pinned at the start, 1 MiB to 256 MiB: of each size one for inputs, one for results."""


class BufferPool:
    """A pool of buffers, pinned ones and others. Thread-safe.

    Args:
        max_idle_bytes: idle memory to keep. Above it, buffers that are not pinned return to the
            system. As many bytes may be pinned.
        pinner: pins memory for a device. None for the CPU, which needs no pinned memory.
    """

    def __init__(self, max_idle_bytes: int, pinner: MemoryPinner | None = None) -> None:
        self._max_idle_bytes = max_idle_bytes
        self.pinned = PinnedMemory(pinner, max_idle_bytes)
        self._idle: list[mmap.mmap] = []  # by size
        self._idle_pinned: list[mmap.mmap] = []  # by size
        # reentrant: the garbage collector may return a buffer while its thread holds the lock
        self._lock = threading.RLock()

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`, uninitialised.

        The memory is pinned if a pinned buffer is idle. Never pins memory: safe on the event loop.
        """
        return self._lease(self._take_pinned(num_bytes), num_bytes)

    def lease_pinned(self, num_bytes: int) -> memoryview:
        """As `lease`, but pins memory, in milliseconds, if none is idle and the limit allows it."""
        buffer = self._take_pinned(num_bytes) or self._allocate_pinned(num_bytes)
        return self._lease(buffer, num_bytes)

    def preallocate_pinned(self) -> None:
        """Pin buffers of PREALLOCATED_BYTES, up to half of the limit. Takes up to a second."""
        left = self._max_idle_bytes // 2
        for size in PREALLOCATED_BYTES:
            left -= size
            buffer = self._allocate_pinned(size) if left >= 0 else None
            if buffer is None:
                return
            self._return_pinned(buffer)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor in leased memory; a small one in new memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < SMALLEST_BYTES:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.lease(num_bytes), dtype=dtype).view(shape)

    def _lease(self, pinned: mmap.mmap | None, num_bytes: int) -> memoryview:
        buffer, return_buffer = pinned, self._return_pinned
        if buffer is None:
            buffer = self._take(self._idle, num_bytes, 2 * num_bytes) or _allocate(num_bytes)
            return_buffer = self._return
        owner = np.frombuffer(buffer, dtype=np.uint8, count=num_bytes)
        weakref.finalize(owner, return_buffer, buffer).atexit = False
        return owner.data

    def _take_pinned(self, num_bytes: int) -> mmap.mmap | None:
        return self._take(self._idle_pinned, num_bytes, 4 * num_bytes)  # as the preallocated sizes

    def _take(self, idle: list[mmap.mmap], num_bytes: int, max_bytes: int) -> mmap.mmap | None:
        """Remove and return the smallest idle buffer that has `num_bytes`; None above a limit."""
        with self._lock:
            index = bisect_left(idle, num_bytes, key=len)
            if index < len(idle) and len(idle[index]) <= max(max_bytes, SMALLEST_BYTES):
                return idle.pop(index)
        return None

    def _allocate_pinned(self, num_bytes: int) -> mmap.mmap | None:
        """Return new pinned memory; None if the limit or the system does not allow it."""
        buffer = _allocate(num_bytes)
        return buffer if self.pinned.pin(buffer) else None

    def _return(self, buffer: mmap.mmap) -> None:
        with self._lock:
            idle_bytes = sum(map(len, self._idle)) + sum(map(len, self._idle_pinned))
            if idle_bytes + len(buffer) <= self._max_idle_bytes:
                insort(self._idle, buffer, key=len)

    def _return_pinned(self, buffer: mmap.mmap) -> None:
        with self._lock:
            insort(self._idle_pinned, buffer, key=len)


def _allocate(num_bytes: int) -> mmap.mmap:
    """Return new memory, up to an eighth larger: the next request may be a little longer."""
    step = max(SMALLEST_BYTES, (1 << num_bytes.bit_length()) // 16)
    size = -(-num_bytes // step) * step
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
