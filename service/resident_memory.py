"""Measure the resident memory of the process, and compare it with a limit."""

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

from service.errors import Overloaded

SLACK_BYTES = 48 * 2**20
"""Memory allowed beyond the budget: for small objects, and for bytes that arrive between two
measurements."""


def resident_bytes() -> int:
    """Return the anonymous resident memory of the process in bytes; 0 where /proc is missing."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def trim() -> None:
    """Return free memory of the C library's allocator to the system (malloc_trim): some ms."""
    if hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)


_C_LIBRARY = ctypes.CDLL(None)


class ResidentLimit:
    """The limit of resident memory: the memory of the idle process, the budget, and SLACK_BYTES.

    Args:
        budget_bytes: memory budget of all requests together.
        measure: returns the resident memory in bytes.
        trim: returns free memory to the system.
    """

    def __init__(
        self,
        budget_bytes: int,
        measure: Callable[[], int] = resident_bytes,
        trim: Callable[[], None] = trim,
    ) -> None:
        self._measure = measure
        self.trim = trim
        self._allowed_bytes = budget_bytes + SLACK_BYTES
        self._idle_bytes = measure()
        self.expected_bytes = 0
        """Memory that calls were granted and may not have taken yet."""

    def set_idle(self) -> None:
        """Measure the idle process; called when the warm-up has ended."""
        self._idle_bytes = self._measure()

    def bytes_left(self) -> int:
        """Return the bytes left until the limit; negative above the limit."""
        return self._allowed_bytes - self.used_bytes()

    def used_bytes(self) -> int:
        """Return the bytes beyond those of the idle process, with the expected ones."""
        return self._measure() - self._idle_bytes + self.expected_bytes

    def expect(self, num_bytes: int) -> None:
        """Grant memory that a call will take; `expected_bytes` is reduced when it has.

        Raises:
            Overloaded: fewer bytes are left.
        """
        if self.bytes_left() < num_bytes:
            self.trim()
            left = self.bytes_left()
            if left < num_bytes:
                raise Overloaded(f"{max(0, left):,} bytes of memory are left")
        self.expected_bytes += num_bytes
