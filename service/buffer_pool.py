"""Large buffers, reused. The first touch of fresh memory costs many times a copy.

A slab is leased as a memoryview, and goes back by itself when nothing looks at it any more: no
slice, no tensor made from it, and no socket that has yet to send it.
"""

import logging
import mmap
import threading
import weakref
from bisect import bisect_left, bisect_right, insort
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger("rope.slabs")

SMALLEST_BYTES = 2**20
"""Below this, the allocator's own reuse is as good."""

LADDER_BYTES = tuple(4**step * 2**20 for step in range(5))
"""Sizes of buffers that are pinned at the start, 1 MiB to 256 MiB, `LADDER_COPIES` of each."""

LADDER_COPIES = 2
"""One for the inputs of a request and one for its answer."""


class MemoryPinner(Protocol):
    """Makes memory fit to be copied to and from a device while the processor does other things."""

    def pin(self, address: int, num_bytes: int) -> bool:
        """Pin memory; False where the system does not allow it. Takes milliseconds."""

    def unpin(self, address: int) -> None:
        """Undo it, before the memory is given back."""


class BufferPool:
    """A pool of buffers.

    Pinned memory stays pinned as long as the pool exists, as pinning and unpinning stall the copies
    of the device.

    Args:
        max_idle_bytes: memory kept for later; unpinned memory beyond it is given back to the
            system. At most as much is pinned.
        pinner: pins memory for a device; None for the CPU, which needs none.
    """

    def __init__(self, max_idle_bytes: int, pinner: MemoryPinner | None = None) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._pinner = pinner
        self._idle: list[mmap.mmap] = []  # in the order of their sizes
        self._idle_pinned: list[mmap.mmap] = []  # as _idle
        self._pinned: list[tuple[int, mmap.mmap]] = []  # in the order of their addresses
        self._pinned_bytes = 0  # with what is being pinned
        self._max_pinned_bytes = max_idle_bytes
        # the event loop and the device's threads lease, and a finalizer runs in any one's midst
        self._lock = threading.RLock()
        if pinner is not None:
            weakref.finalize(self, _unpin_all, pinner, self._pinned).atexit = False

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`; its contents are anything.

        The memory is pinned if a pinned buffer is idle. Never pins memory: safe on the event loop.
        """
        return self._lend(self._take_pinned(num_bytes), num_bytes)

    def lease_pinned(self, num_bytes: int) -> memoryview:
        """As `lease`, but pins memory, in milliseconds, if none is idle and the limit allows it."""
        slab = self._take_pinned(num_bytes)
        return self._lend(slab or self._make_pinned(num_bytes), num_bytes)

    def pin_ladder(self) -> None:
        """Pin buffers of the sizes of the ladder, up to half of the limit. Takes up to a second."""
        left = self._max_idle_bytes // 2
        for size in sorted(LADDER_BYTES * LADDER_COPIES):
            left -= size
            slab = self._make_pinned(size) if left >= 0 else None
            if slab is None:
                return
            with self._lock:
                insort(self._idle_pinned, slab, key=len)

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

    def _lend(self, pinned: mmap.mmap | None, num_bytes: int) -> memoryview:
        slab = pinned
        if slab is None:
            slab = self._take(self._idle, num_bytes, 2 * num_bytes) or _allocate(num_bytes)
        owner = np.frombuffer(slab, dtype=np.uint8, count=num_bytes)
        give_back = self._give_back if pinned is None else self._give_back_pinned
        weakref.finalize(owner, give_back, slab).atexit = False
        return owner.data

    def _take_pinned(self, num_bytes: int) -> mmap.mmap | None:
        if self._pinner is None:
            return None
        return self._take(self._idle_pinned, num_bytes, 4 * num_bytes)  # as the ladder's steps

    def _take(self, idle: list[mmap.mmap], num_bytes: int, most: int) -> mmap.mmap | None:
        """Remove the smallest that suffices; `most`: the largest that is no waste."""
        with self._lock:
            fit = bisect_left(idle, num_bytes, key=len)
            if fit < len(idle) and len(idle[fit]) <= max(most, SMALLEST_BYTES):
                return idle.pop(fit)
        return None

    def _make_pinned(self, num_bytes: int) -> mmap.mmap | None:
        """Allocate and pin memory; None at the limit, or if the system refuses."""
        if self._pinner is None or self._pinned_bytes + num_bytes > self._max_pinned_bytes:
            return None
        slab = _allocate(num_bytes)
        with self._lock:
            self._pinned_bytes += len(slab)
            fits = self._pinned_bytes <= self._max_pinned_bytes
        address = _address_of(slab)
        pinned = fits and self._pinner.pin(address, len(slab))  # without the lock: it takes long
        with self._lock:
            if pinned:
                insort(self._pinned, (address, slab), key=_address)
                return slab
            self._pinned_bytes -= len(slab)
            if fits:  # the system refused, and would the next time
                log.warning("cannot pin more memory than %d bytes", self._pinned_bytes)
                self._max_pinned_bytes = self._pinned_bytes
        return None

    def _give_back(self, slab: mmap.mmap) -> None:
        with self._lock:
            idle_bytes = sum(map(len, self._idle)) + sum(map(len, self._idle_pinned))
            if idle_bytes + len(slab) <= self._max_idle_bytes:
                insort(self._idle, slab, key=len)

    def _give_back_pinned(self, slab: mmap.mmap) -> None:
        with self._lock:
            insort(self._idle_pinned, slab, key=len)


def _unpin_all(pinner: MemoryPinner, pinned: list[tuple[int, mmap.mmap]]) -> None:
    for address, _ in pinned:
        pinner.unpin(address)


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
