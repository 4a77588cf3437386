"""Large buffers, reused. The first touch of fresh memory costs many times a copy.

A slab is leased as a memoryview, and goes back by itself when nothing looks at it any more: no
slice, no tensor made from it, and no socket that has yet to send it.
"""

import mmap
import threading
import weakref
from bisect import bisect_left, bisect_right, insort
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

SMALLEST_BYTES = 2**20
"""Below this, the allocator's own reuse is as good."""


class Pins(Protocol):
    """Makes memory fit to be copied to and from a device while the processor does other things."""

    def pin(self, address: int, num_bytes: int) -> bool:
        """Pin memory; False where the system does not allow it."""

    def unpin(self, address: int) -> None:
        """Undo it, before the memory is given back."""


class Slabs:
    """A pool of buffers.

    Args:
        max_idle_bytes: memory kept for later; more is given back to the system.
        pins: pins each buffer as long as it exists, which takes far longer than to use it again.
    """

    def __init__(self, max_idle_bytes: int, pins: Pins | None = None) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._pins = pins
        self._idle: list[mmap.mmap] = []  # in the order of their sizes
        self._pinned: list[tuple[int, mmap.mmap]] = []  # in the order of their addresses
        # the event loop and the device's threads lease, and a finalizer runs in any one's midst
        self._lock = threading.RLock()

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`; its contents are anything."""
        slab = self._take(num_bytes) or self._make(num_bytes)
        owner = np.frombuffer(slab, dtype=np.uint8, count=num_bytes)
        weakref.finalize(owner, self._give_back, slab).atexit = False
        return owner.data

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor in leased memory, or in fresh memory if it is small."""
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        if num_bytes < SMALLEST_BYTES:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.lease(num_bytes), dtype=dtype).view(shape)

    def pinned(self, first: int, last: int) -> Tensor | None:
        """Return the bytes between two addresses, if one pinned buffer has them all.

        They are no lease: whoever asks holds one of what is there.
        """
        with self._lock:
            index = bisect_right(self._pinned, first, key=_address) - 1
            if index < 0:
                return None
            address, slab = self._pinned[index]
        if not first < last <= address + len(slab):
            return None
        return torch.frombuffer(slab, dtype=torch.uint8, count=last - first, offset=first - address)

    def _make(self, num_bytes: int) -> mmap.mmap:
        slab = _allocate(num_bytes)
        if self._pins is not None:
            address = _address_of(slab)
            if self._pins.pin(address, len(slab)):
                with self._lock:
                    insort(self._pinned, (address, slab), key=_address)
        return slab

    def _take(self, num_bytes: int) -> mmap.mmap | None:
        with self._lock:
            fit = bisect_left(self._idle, num_bytes, key=len)
            most = max(2 * num_bytes, SMALLEST_BYTES)
            if fit < len(self._idle) and len(self._idle[fit]) <= most:
                return self._idle.pop(fit)
        return None

    def _give_back(self, slab: mmap.mmap) -> None:
        with self._lock:
            if sum(map(len, self._idle)) + len(slab) <= self._max_idle_bytes:
                insort(self._idle, slab, key=len)
                return
            index = bisect_left(self._pinned, _address_of(slab), key=_address)
            if index == len(self._pinned) or self._pinned[index][1] is not slab:
                return
            address, _ = self._pinned.pop(index)
        if self._pins is not None:
            self._pins.unpin(address)


def _address(pinned: tuple[int, mmap.mmap]) -> int:
    return pinned[0]


def _address_of(slab: mmap.mmap) -> int:
    return int(np.frombuffer(slab, dtype=np.uint8).ctypes.data)


def _allocate(num_bytes: int) -> mmap.mmap:
    """Return fresh memory, an eighth larger at the most: the next request may be a bit longer."""
    step = max(SMALLEST_BYTES, (1 << num_bytes.bit_length()) // 16)
    size = -(-num_bytes // step) * step
    slab = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    slab.madvise(mmap.MADV_HUGEPAGE)
    return slab
