"""What the engine wants of a device, and what a device that is not the CPU wants of its driver."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rope_core import Call, Result
from rope_core.errors import KernelNotBuilt
from service.batching.batcher import Run
from service.batching.packing import DeviceBatch
from service.buffer_pool import MemoryPinner


@dataclass(frozen=True, slots=True)
class DeviceCapabilities:
    """What scheduling has to know of a device."""

    max_inflight: int
    """Runs in flight: while one computes, the next is brought."""

    bytes_per_s: float
    flops_per_s: float

    builds_kernels: bool
    """Whether kernels are built for it. Calls then wait until the usual kernels are built."""

    may_hang: bool
    """Whether a run may never come back; where it is slow at most, nobody watches over it."""

    inline_limit_s: float
    """Runs estimated below this stay on the event loop."""

    batch_mixed_ops: bool
    """Whether small calls of all kinds share a run, since what a run costs is its copies."""

    packable_ops: tuple[type[Call], ...]
    """Kinds of calls that gain from being run as one."""

    packed_bytes: int
    """Calls larger than this are not put into a pack, and run alone."""

    batch_bytes: int
    """Bytes of tensors that a run may hold, where the operator does not say."""

    warm_up_shapes: tuple[tuple[int, int, int], ...]
    """Shapes to warm up unless the operator lists some: heads, kv_heads, head_dim."""


class Device(Protocol):
    """Runs calls; several threads may ask it to."""

    name: str
    capabilities: DeviceCapabilities

    def run(
        self, loads: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        """Return the answers of all calls that the loads stand for, on the host, in their order.

        The result is KernelNotBuilt for a call that names a backend whose kernel is not built yet.

        Raises:
            DeviceFull: its memory does not suffice, though nothing else was run.
            DeviceLost: nothing will run on it any more.
        """

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor to compute into."""

    def memory_bytes(self) -> int:
        """Return the memory in use: of tensors on a GPU, of the process on the CPU."""


class Event(Protocol):
    """A point in a stream. Those of torch are some; each driver knows its own alone."""

    def record(self, stream: Any) -> None:
        """Put it behind what the stream has to do now."""

    def synchronize(self) -> None:
        """Wait until the stream has come to it; other threads run meanwhile."""

    def elapsed_time(self, end_event: Any) -> float:
        """Return the milliseconds from this to a later event; both have come."""


class Stream(Protocol):
    """Work that a device does in order."""

    def wait_event(self, event: Any) -> None:
        """Let what is put in from now on begin after an event of another stream."""


class Driver(MemoryPinner, Protocol):
    """The verbs of a device, and nothing that could be decided elsewhere."""

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    def stream(self) -> Stream:
        """Return a stream of its own."""

    def on(self, stream: Stream) -> AbstractContextManager[None]:
        """Put what this thread asks for within the block into a stream."""

    def event(self) -> Event:
        """Return an event that has a time."""

    def empty(self, num_bytes: int) -> Tensor:
        """Return bytes on the device; their memory is used again in the order of the stream."""

    def copy(self, to: Tensor, source: Tensor) -> None:
        """Put a copy of bytes into the stream, to or from pinned memory, and do not wait."""

    def is_full(self, failure: Exception) -> bool:
        """Tell whether a failure says that memory does not suffice."""

    def empty_cache(self) -> None:
        """Give back the memory that no tensor has."""

    def synchronize(self) -> None:
        """Wait for all streams; raises where the device is lost."""

    def memory_bytes(self) -> int:
        """Return the bytes of all tensors on the device."""
