"""Large buffers, reused: the first write to new memory costs many times a copy."""

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from service.errors import Overloaded
from service.memory_blocks import MIN_BUFFER_BYTES, Block, FreeBlocks, Region
from service.pinned_memory import MemoryPinner, PinnedMemory

PREALLOCATED_BYTES = sorted(2 * tuple(4**step * 2**20 for step in range(5)))
"""Regions pinned at the start, 1 MiB to 256 MiB: of each size one for inputs, one for results."""


class BufferPool:
    """A pool of large memory, pinned and other. Thread-safe.

    A buffer is leased as a memoryview. It returns to the pool once nothing refers to it: no slice,
    no tensor made from it, and no socket that has yet to send it.

    Args:
        max_idle_bytes: idle memory to keep. Above it, regions that are idle as a whole return to
            the system, but for pinned and preallocated ones. As many bytes may be pinned.
        pinner: pins memory for a device. None for the CPU, which needs no pinned memory.
        allocate: allocates new memory.
    """

    def __init__(
        self,
        max_idle_bytes: int,
        pinner: MemoryPinner | None = None,
        allocate: Callable[[int], Region] = Region.for_block,
    ) -> None:
        self._allocate = allocate
        self._max_idle_bytes = max_idle_bytes
        self._uses_pinned = pinner is not None
        self.pinned = PinnedMemory(pinner, max_idle_bytes)
        self._free = FreeBlocks()
        self._free_pinned = FreeBlocks()
        self._returned: deque[Block] = deque()  # blocks that nothing refers to
        self._lock = threading.Lock()

    def lease(self, num_bytes: int) -> memoryview:
        """Return writable memory of `num_bytes`, uninitialised.

        The memory is pinned if pinned memory is idle. Never pins memory: safe on the event loop.

        Raises:
            Overloaded: the system has too little memory.
        """
        return self._lease(self._take(num_bytes), num_bytes)

    def lease_pinned(self, num_bytes: int) -> memoryview:
        """As `lease`, but may pin memory if none is idle, which takes milliseconds."""
        with self._lock:
            self._put_returned()
            block = self._free_pinned.take(max(num_bytes, MIN_BUFFER_BYTES))
        block = block or self._allocate_pinned(num_bytes) or self._take(num_bytes)
        return self._lease(block, num_bytes)

    def preallocate(self, num_bytes: int) -> None:
        """Make memory ready for the first requests. May take a second.

        Where a device needs pinned memory, pin PREALLOCATED_BYTES, up to half of the limit.
        Elsewhere write to each page of `num_bytes`, and keep them.
        """
        if self._uses_pinned:
            self._preallocate_pinned()
        elif num_bytes >= MIN_BUFFER_BYTES:
            region = Region.for_block(num_bytes)
            region.touch()
            region.is_kept = True
            self._add_free(Block(region, 0, len(region.buffer)))

    def _preallocate_pinned(self) -> None:
        left = self._max_idle_bytes // 2
        for size in PREALLOCATED_BYTES:
            left -= size
            block = self._allocate_pinned(size) if left >= 0 else None
            if block is None:
                return
            self._add_free(block)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor in leased memory; a small one in new memory."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if num_bytes < MIN_BUFFER_BYTES:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.lease(num_bytes), dtype=dtype).view(shape)

    def _take(self, num_bytes: int) -> Block:
        num_bytes = max(num_bytes, MIN_BUFFER_BYTES)
        with self._lock:
            self._put_returned()
            block = self._free_pinned.take(num_bytes) or self._free.take(num_bytes)
            try:
                return block or self._add(self._free, self._allocate(num_bytes), num_bytes)
            except MemoryError:
                raise Overloaded("the host has too little free memory for the request") from None

    def _add_free(self, block: Block) -> None:
        with self._lock:
            self._put(block)

    def _lease(self, block: Block, num_bytes: int) -> memoryview:
        owner = np.frombuffer(block.region.buffer, np.uint8, count=num_bytes, offset=block.offset)
        weakref.finalize(owner, self._return, block).atexit = False
        return owner.data

    def _return(self, block: Block) -> None:
        """Return memory that nothing refers to, on any thread and amid any code.

        The garbage collector may call this while its own thread holds the lock, so do not wait for
        the lock: its next holder adds the block to the free ones.
        """
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._put_returned()
            finally:
                self._lock.release()

    def _put_returned(self) -> None:
        while self._returned:
            self._put(self._returned.popleft())

    def _put(self, block: Block) -> None:
        """Add a block to the free ones, and return memory above the limit to the system."""
        (self._free_pinned if block.region.is_pinned else self._free).put(block)
        surplus = self._free.num_bytes + self._free_pinned.num_bytes - self._max_idle_bytes
        if surplus <= 0:
            return
        for idle in [*self._free]:
            if idle.is_whole_region and not idle.region.is_kept and surplus > 0:
                self._free.remove(idle)
                surplus -= idle.size

    def _allocate_pinned(self, num_bytes: int) -> Block | None:
        """Return new pinned memory; None if the limit or the system does not allow it."""
        region = Region.for_block(max(num_bytes, MIN_BUFFER_BYTES))
        if not self.pinned.pin(region.buffer):
            return None
        region.is_pinned = True
        with self._lock:
            return self._add(self._free_pinned, region, max(num_bytes, MIN_BUFFER_BYTES))

    @staticmethod
    def _add(free: FreeBlocks, region: Region, num_bytes: int) -> Block:
        """Return a block of `num_bytes` of a new region."""
        free.put(Block(region, 0, len(region.buffer)))
        block = free.take(num_bytes)
        assert block is not None, "a block of the new region is large enough"
        return block
