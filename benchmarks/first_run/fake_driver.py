"""A fake driver for dry runs: tensors are on the CPU, and streams run at once."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FAULT = "CUDA error: an illegal memory access was encountered"


class _Stream:
    def wait_event(self, event: object) -> None:
        """Do nothing: all work of a stream is done."""


class _Event:
    def record(self, stream: object) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def elapsed_time(self, end_event: object) -> float:
        """Return 0: a dry run measures no time."""
        return 0.0


class FakeDriver:
    """Implements the driver's methods on the CPU."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.full = False
        """Set it to make `empty` raise an out-of-memory error."""

        self.lost = False

    def pin(self, address: int, num_bytes: int) -> bool:
        """Do nothing."""
        return True

    def unpin(self, address: int) -> None:
        """Do nothing."""

    def stream(self) -> _Stream:
        """Return a stream whose work is always done."""
        return _Stream()

    def on(self, stream: object) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def event(self) -> _Event:
        """Return an event that is always complete."""
        return _Event()

    def empty(self, num_bytes: int) -> Tensor:
        """Return uninitialized CPU memory, uint8 `[num_bytes]`."""
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.empty(num_bytes, dtype=torch.uint8)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy synchronously."""
        to.copy_(source)

    def is_full(self, failure: Exception) -> bool:
        """Return whether an exception means that memory is full."""
        return isinstance(failure, torch.OutOfMemoryError)

    def empty_cache(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Raise if the device is lost."""
        if self.lost:
            raise RuntimeError(FAULT)

    def memory_bytes(self) -> int:
        """Return 0."""
        return 0

    @property
    def total_memory_bytes(self) -> int:
        """Return 0."""
        return 0

    def lose(self) -> None:
        """Fail like a GPU after an illegal memory access: now, and in every later `synchronize`."""
        self.lost = True
        raise RuntimeError(FAULT)
