"""A driver of a device that is not there, for dry runs: tensors of the CPU, and no stream waits."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

FAULT = "CUDA error: an illegal memory access was encountered"


class _Stream:
    def wait_event(self, event: object) -> None:
        """Return at once: what was put into a stream is done."""


class _Event:
    def record(self, stream: object) -> None:
        """Return at once."""

    def synchronize(self) -> None:
        """Return at once."""

    def elapsed_time(self, end_event: object) -> float:
        """Return no time: nothing is measured."""
        return 0.0


class StandIn:
    """Every verb of a device's driver, done by the CPU at once."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.full = False
        """Whether no memory is left."""

        self.lost = False

    def pin(self, address: int, num_bytes: int) -> bool:
        """Do nothing."""
        return True

    def unpin(self, address: int) -> None:
        """Do nothing."""

    def stream(self) -> _Stream:
        """Return a stream that does all at once."""
        return _Stream()

    def on(self, stream: object) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def event(self) -> _Event:
        """Return an event that has come."""
        return _Event()

    def empty(self, num_bytes: int) -> Tensor:
        """Return bytes of the CPU."""
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.empty(num_bytes, dtype=torch.uint8)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy at once."""
        to.copy_(source)

    def is_full(self, failure: Exception) -> bool:
        """Tell whether no memory was left."""
        return isinstance(failure, torch.OutOfMemoryError)

    def empty_cache(self) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Raise where the device is lost."""
        if self.lost:
            raise RuntimeError(FAULT)

    def memory_bytes(self) -> int:
        """Return none."""
        return 0

    def lose(self) -> None:
        """Fail as a GPU does whose memory was reached into: now and ever after."""
        self.lost = True
        raise RuntimeError(FAULT)
