"""An NVIDIA GPU, by way of torch: verbs alone, as no test without one sees them."""

from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch
from torch import Tensor

from service.device.interface import Driver, Event, Stream

OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation: what an allocator other than torch's says."""

CONTROL_FILE = Path("/dev/nvidiactl")
"""Exists where this system or container has been given a GPU by NVIDIA's driver."""


def find_driver(wanted: str, control_file: Path = CONTROL_FILE) -> Driver | None:
    """Return the driver of a device, None for the CPU, which needs none.

    Args:
        wanted: the setting `device`: `auto`, `cpu` or `cuda`.
        control_file: file whose existence shows that the system has an NVIDIA GPU.

    Raises:
        SystemExit: torch cannot use the GPU, and the setting is `cuda`, or `auto` beside a GPU.
    """
    if wanted == "cpu":
        return None
    if torch.cuda.is_available():
        return Cuda()
    if wanted == "cuda":
        raise SystemExit(f"device cuda was asked for, but torch finds no GPU: {_why_no_gpu()}")
    if control_file.exists():
        raise SystemExit(
            f"there is an NVIDIA GPU, but torch cannot use it: {_why_no_gpu()}. "
            "Set ROPE_DEVICE=cpu to serve on the CPU"
        )
    return None


def _why_no_gpu() -> str:
    """Return torch's reason for finding no GPU, in one line."""
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as failure:
        return " ".join(str(failure).split())
    return "torch gives no reason"


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
        """Tell whether a failure says so in the words of torch, CUDA, Triton or a library."""
        if isinstance(failure, torch.OutOfMemoryError):
            return True
        if getattr(failure, "error_code", None) == OUT_OF_MEMORY:
            return True
        text = str(failure)
        # Triton: "Triton Error [CUDA]: out of memory"; cuBLAS and cuDNN 8: ..._STATUS_ALLOC_FAILED;
        # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
        return "out of memory" in text.lower() or "ALLOC" in text

    def empty_cache(self) -> None:
        """Give back what torch's pool holds."""
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.device)

    def memory_bytes(self) -> int:
        """Return what tensors have of torch's pool."""
        return torch.cuda.memory_allocated(self.device)
