"""How much memory of the process is resident, and how much more requests may take of it."""

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

SLACK_BYTES = 48 * 2**20
"""Memory beside the budget: of small objects, and of what arrives between two measurements."""


def resident_bytes() -> int:
    """Return the resident memory of the process that no file backs; 0 where there is no /proc."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def trim() -> None:
    """Return the free memory of the C library's allocator to the system; takes milliseconds."""
    if hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)


_C_LIBRARY = ctypes.CDLL(None)


class ResidentLimit:
    """The resident memory that the process may have: what it has when idle, and the budget.

    Args:
        budget_bytes: what all requests together may take.
        measure: returns the resident memory.
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

    def set_idle(self) -> None:
        """Take the memory of now as that of the idle process: the warm-up has ended."""
        self._idle_bytes = self._measure()

    def bytes_left(self) -> int:
        """Return how much memory the process may take in addition; negative above the limit."""
        return self._idle_bytes + self._allowed_bytes - self._measure()
