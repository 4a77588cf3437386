"""An NVIDIA GPU, by way of torch: verbs alone, as no test without one sees them."""

from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor

from service.device.seam import Driver, Event, Stream

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: what an allocator other than torch's says."""


def find_driver(wanted: str) -> Driver | None:
    """Return the driver of the device of a setting, None for the CPU, which needs none."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return None
    if not torch.cuda.is_available():
        raise SystemExit("device cuda was asked for, but torch finds no GPU")
    return Cuda()


class Cuda:
    """The current GPU."""

    def __init__(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self.device = torch.device("cuda")
        self._runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def pin(self, address: int, num_bytes: int) -> bool:
        """Register memory with CUDA."""
        if int(self._runtime.cudaHostRegister(address, num_bytes, 0)) == 0:
            return True
        with suppress(RuntimeError):  # CUDA's next call would be told of it, whoever makes it
            torch.zeros(1, device=self.device)
        return False

    def unpin(self, address: int) -> None:
        """Undo it."""
        self._runtime.cudaHostUnregister(address)

    def stream(self) -> Stream:
        """Return a stream of its own."""
        stream: Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return stream

    def on(self, stream: Stream) -> AbstractContextManager[None]:
        """Make a stream this thread's."""
        return torch.cuda.stream(stream)  # type: ignore[arg-type]

    def event(self) -> Event:
        """Return an event with a time; a thread that waits for it sleeps."""
        event: Event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        return event

    def empty(self, num_bytes: int) -> Tensor:
        """Return bytes from torch's pool, that of this thread's stream."""
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Copy, and do not wait."""
        to.copy_(source, non_blocking=True)

    def is_full(self, failure: Exception) -> bool:
        """Tell whether a failure is torch's own, CUDA's or that of a library."""
        return (
            isinstance(failure, torch.OutOfMemoryError)
            or getattr(failure, "error_code", None) == OUT_OF_MEMORY
            or "STATUS_ALLOC_FAILED" in str(failure)
        )

    def empty_cache(self) -> None:
        """Give back what torch's pool holds."""
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.device)

    def memory_bytes(self) -> int:
        """Return what tensors have of torch's pool."""
        return torch.cuda.memory_allocated(self.device)
