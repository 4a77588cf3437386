"""Page-locked host memory: copies between it and a device need no processor."""

import logging
import mmap
import threading
import weakref
from bisect import bisect_right, insort
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger("rope.memory")


class MemoryPinner(Protocol):
    """Pins memory for copies of one device."""

    def pin(self, address: int, num_bytes: int) -> bool:
        """Pin memory, which takes milliseconds. Returns False if the system refuses."""

    def unpin(self, address: int) -> None:
        """Unpin memory, before the system gets it back."""


class PinnedMemory:
    """Pins buffers up to a limit, and finds the buffer that holds an address. Thread-safe.

    Buffers stay pinned while this object exists: to pin and to unpin stalls the device's copies.

    Args:
        pinner: pins the buffers; None for a device that needs no pinned memory.
        max_bytes: how much may be pinned.
    """

    def __init__(self, pinner: MemoryPinner | None, max_bytes: int) -> None:
        self._pinner = pinner
        self._max_bytes = max_bytes
        self._num_bytes = 0  # pinned or being pinned
        self._buffers: list[tuple[int, mmap.mmap]] = []  # by address
        self._lock = threading.Lock()
        if pinner is not None:
            weakref.finalize(self, _unpin_all, pinner, self._buffers).atexit = False

    def pin(self, buffer: mmap.mmap) -> bool:
        """Pin a buffer. Returns False at the limit, or if the system refuses."""
        size = len(buffer)
        with self._lock:
            if self._pinner is None or self._num_bytes + size > self._max_bytes:
                return False
            self._num_bytes += size
        address = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
        is_pinned = self._pinner.pin(address, size)  # without the lock: it takes long
        with self._lock:
            if is_pinned:
                insort(self._buffers, (address, buffer), key=_address)
            else:
                self._num_bytes -= size
                self._max_bytes = self._num_bytes  # the system would refuse the next time as well
                log.warning("cannot pin more memory than %d bytes", self._max_bytes)
        return is_pinned

    def find(self, address: int, num_bytes: int) -> Tensor | None:
        """Return memory, uint8 `[num_bytes]`, if it is part of one pinned buffer; else None."""
        with self._lock:
            index = bisect_right(self._buffers, address, key=_address) - 1
            if index < 0 or not num_bytes:
                return None
            start, buffer = self._buffers[index]
        offset = address - start
        if offset + num_bytes > len(buffer):
            return None
        return torch.frombuffer(buffer, dtype=torch.uint8, count=num_bytes, offset=offset)


def _unpin_all(pinner: MemoryPinner, buffers: list[tuple[int, mmap.mmap]]) -> None:
    for address, _ in buffers:
        pinner.unpin(address)


def _address(buffer: tuple[int, mmap.mmap]) -> int:
    return buffer[0]
