"""Large buffers, reused. The first touch of fresh memory costs many times a copy.

A slab is leased as a memoryview, and goes back by itself when nothing looks at it any more: no
slice, no tensor made from it, and no socket that has yet to send it.
"""

import mmap
import threading
import weakref
from bisect import bisect_left, insort

import numpy as np
import torch
from torch import Tensor

SMALLEST_BYTES = 2**20
"""Below this, the allocator's own reuse is as good."""


class Slabs:
    """A pool of buffers.

    Args:
        max_idle_bytes: memory kept for later; more is given back to the system.
    """

    def __init__(self, max_idle_bytes: int) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._idle: list[mmap.mmap] = []  # in the order of their sizes
        # both the event loop and the device's thread lease, and a finalizer runs in either's midst
        self._lock = threading.RLock()

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`; its contents are anything."""
        slab = self._take(num_bytes) or _allocate(num_bytes)
        owner = np.frombuffer(slab, dtype=np.uint8, count=num_bytes)
        weakref.finalize(owner, self._give_back, slab).atexit = False
        return owner.data

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor in leased memory, or in fresh memory if it is small."""
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if num_bytes < SMALLEST_BYTES:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.lease(num_bytes), dtype=dtype).view(shape)

    def _take(self, num_bytes: int) -> mmap.mmap | None:
        with self._lock:
            fit = bisect_left(self._idle, num_bytes, key=len)
            if fit < len(self._idle) and len(self._idle[fit]) <= 2 * num_bytes:
                return self._idle.pop(fit)
        return None

    def _give_back(self, slab: mmap.mmap) -> None:
        with self._lock:
            if sum(map(len, self._idle)) + len(slab) <= self._max_idle_bytes:
                insort(self._idle, slab, key=len)


def _allocate(num_bytes: int) -> mmap.mmap:
    """Return fresh memory, an eighth larger at the most: the next request may be a bit longer."""
    step = max(SMALLEST_BYTES, (1 << num_bytes.bit_length()) // 16)
    size = -(-num_bytes // step) * step
    slab = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    slab.madvise(mmap.MADV_HUGEPAGE)
    return slab
