"""Large buffers, reused. The first touch of fresh memory costs many times a copy.

A slab is leased as a memoryview, and goes back by itself when nothing looks at it any more: no
slice, no tensor made from it, and no socket that has yet to send it.
"""

import mmap
import weakref

import numpy as np
import torch
from torch import Tensor

SMALLEST_BYTES = 256 * 2**10
"""Below this, the allocator's own reuse is as good."""


class Slabs:
    """A pool of buffers in sizes of powers of two."""

    def __init__(self, max_idle_bytes: int) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._idle_bytes = 0
        self._idle: dict[int, list[mmap.mmap]] = {}

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`; its contents are anything."""
        size = max(SMALLEST_BYTES, 1 << (num_bytes - 1).bit_length())
        idle = self._idle.setdefault(size, [])
        if idle:
            slab = idle.pop()
            self._idle_bytes -= size
        else:
            slab = mmap.mmap(-1, size)
            slab.madvise(mmap.MADV_HUGEPAGE)
        owner = np.frombuffer(slab, dtype=np.uint8, count=num_bytes)
        weakref.finalize(owner, self._give_back, slab).atexit = False
        return owner.data

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor in leased memory, or in fresh memory if it is small."""
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if num_bytes < SMALLEST_BYTES:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.lease(num_bytes), dtype=dtype).view(shape)

    def _give_back(self, slab: mmap.mmap) -> None:
        if self._idle_bytes + len(slab) <= self._max_idle_bytes:
            self._idle[len(slab)].append(slab)
            self._idle_bytes += len(slab)
