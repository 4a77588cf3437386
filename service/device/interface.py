"""What the engine needs of a device, and what an accelerator needs of its driver."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from rope_core import Call, Result
from rope_core.errors import KernelNotBuilt
from service.batching.packing import DeviceBatch
from service.batching.run import Run
from service.pinned_memory import MemoryPinner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DeviceCapabilities:
    """What scheduling has to know of a device."""

    max_inflight: int
    """Runs in flight at a time; above 1, the next run is copied in while one computes."""

    bytes_per_s: float
    """Input bytes per second of a call that is copied to the device, computed and copied back."""

    flops_per_s: float

    builds_kernels: bool
    """Whether kernels are built for the device. Calls wait until the usual kernels are built."""

    may_hang: bool
    """Whether a run may never return, so that a watchdog is needed."""

    inline_limit_s: float
    """Runs with a lower estimated time run on the event loop."""

    batch_mixed_ops: bool
    """Whether small calls of all operations share a run: worthwhile where copies dominate."""

    packable_ops: tuple[type[Call], ...]
    """Operations whose calls are faster if they are computed as one."""

    packed_bytes: int
    """Size limit of a call in a pack. A larger call runs alone."""

    batch_bytes: int
    """Default limit for the bytes of a batch."""

    warm_up_shapes: tuple[tuple[int, int, int], ...]
    """Default shapes to warm up: heads, kv_heads, head_dim."""


class Device(Protocol):
    """Computes calls. Thread-safe."""

    name: str
    capabilities: DeviceCapabilities
    memory_limit_bytes: int
    """Most memory that `memory_bytes` may reach."""
    scratch: Tensor | None
    """Memory of the host, uint8 `[n]`, that each run may overwrite; it stays in the caches. None
    where runs overlap, or compute elsewhere than in the memory where requests are received."""

    def run(
        self, batches: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        """Return the results of all calls in the batches, in order, with tensors on the host.

        The result is KernelNotBuilt for a call that names a backend whose kernel is not built yet.

        Raises:
            DeviceFull: the memory does not suffice, although no other run used it.
            DeviceLost: the device has failed for good.
        """

    def guard(self, work: Callable[[], T]) -> T:
        """Return the result of other work on the device, which may be run twice.

        Raises:
            DeviceFull, DeviceLost: as `run`.
        """

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor on the device, for a result."""

    def memory_bytes(self) -> int:
        """Return the memory in use: by tensors on a GPU, by the process on the CPU."""


class Driver(MemoryPinner, Protocol):
    """Primitive operations of a device, without decisions."""

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""

    @property
    def total_memory_bytes(self) -> int:
        """The memory of the device."""

    def stream(self) -> torch.Stream:
        """Return a new stream: work that the device does in order."""

    def on(self, stream: torch.Stream) -> AbstractContextManager[None]:
        """Within the block, enqueue this thread's work in a stream."""

    def event(self) -> torch.Event:
        """Return a new event that records its time."""

    def empty(self, num_bytes: int) -> Tensor:
        """Return uninitialised uint8 `[num_bytes]`. Its memory is reused in stream order."""

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Enqueue a copy of bytes to or from pinned memory. Does not wait for it."""

    def is_full(self, failure: Exception) -> bool:
        """Tell whether an exception means that memory does not suffice."""

    def empty_cache(self) -> None:
        """Release memory that is cached and in no tensor."""

    def synchronize(self) -> None:
        """Wait for all streams. Raises an exception if the device is lost."""

    def memory_bytes(self) -> int:
        """Return the bytes of all tensors on the device."""
