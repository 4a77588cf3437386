"""Drivers for tests: tensors of the CPU (or without values) behind the interface of a device.

The fake device is as late as a real one may be: work in a stream runs only when the host waits for
a later event, so that code that does not wait reads POISON.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

POISON = 0xA5

STREAMS = ("copy_to_device", "compute", "copy_to_host")
"""Names of the streams in the order in which they are made."""

LOST = "CUDA error: an illegal memory access was encountered"


class Event:
    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.stream: Stream | None = None
        self.time = 0.0

    def record(self, stream: "Stream") -> None:
        self.stream = stream
        stream.enqueue(self)

    def synchronize(self) -> None:
        assert self.stream is not None, "waited for before it was recorded"
        self.stream.run_to(self)

    def elapsed_time(self, end_event: "Event") -> float:
        assert self.time, "the stream has not reached this event"
        assert end_event.time, "the stream has not reached the end event"
        return 1e3 * (end_event.time - self.time)


class Stream:
    def __init__(self, name: str) -> None:
        self.name = name
        self.last_event: Event | None = None
        self.waited_for: Event | None = None
        self._work: deque[Event | Callable[[], None]] = deque()
        self._lock = threading.RLock()

    def enqueue(self, work: Event | Callable[[], None]) -> None:
        with self._lock:
            self._work.append(work)
            self.last_event = work if isinstance(work, Event) else self.last_event

    def wait_event(self, event: Event) -> None:
        event.synchronize()
        self.waited_for = event

    def run_to(self, event: Event | None) -> None:
        """Do the work up to an event; all work if it is None."""
        with self._lock:
            while self._work and not (event is not None and event.time):
                work = self._work.popleft()
                if isinstance(work, Event):
                    work.time = work.clock()
                else:
                    work()


class FakeDriver:
    """Records what it does.

    `fault(step, num_bytes)` is called at each step: "allocate" and the names of STREAMS. It may
    raise an exception or block.
    """

    def __init__(self, fault: Callable[[str, int], None] = lambda *_: None) -> None:
        self.device = torch.device("cpu")
        self.fault = fault
        self.clock: Callable[[], float] = time.perf_counter
        self.lost = False
        self.log: list[str] = []
        """Steps without "allocate", and "computed" at the end of "compute"."""
        self.sources: list[int] = []
        """Addresses that were copied from."""
        self.pinned: dict[int, int] = {}
        """Addresses and sizes of pinned memory."""
        self.num_pins = 0
        self.pinning_threads: set[int] = set()
        self.num_cache_clears = 0
        self._streams: list[Stream] = []
        self._current = threading.local()

    def pin(self, address: int, num_bytes: int) -> bool:
        self.pinned[address] = num_bytes
        self.num_pins += 1
        self.pinning_threads.add(threading.get_ident())
        return True

    def unpin(self, address: int) -> None:
        del self.pinned[address]

    def stream(self) -> Stream:
        stream = Stream(STREAMS[len(self._streams)])
        self._streams.append(stream)
        return stream

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self._current.stream = stream
        try:
            if stream.name == "compute":
                self._step("compute", 0)
            yield
            if stream.name == "compute":
                self.log.append("computed")
        finally:
            self._current.stream = None

    def event(self) -> Event:
        return Event(self.clock)

    def empty(self, num_bytes: int) -> Tensor:
        self._step("allocate", num_bytes)
        return torch.full((num_bytes,), POISON, dtype=torch.uint8)

    def copy(self, to: Tensor, source: Tensor) -> None:
        stream = self._current.stream
        assert stream is not None, "a copy outside of every stream"
        assert to.shape == source.shape
        host = source if stream.name == "copy_to_device" else to
        assert self._is_pinned(host), "a copy to or from memory that is not pinned blocks"
        if stream.name == "copy_to_host":  # computing is never late here: POISON cannot show it
            assert stream.waited_for is self._streams[1].last_event, "no wait for computing"
        self.sources.append(source.data_ptr())
        self._step(stream.name, source.numel())
        stream.enqueue(partial(copy, to, source))

    def is_full(self, failure: Exception) -> bool:
        return isinstance(failure, torch.OutOfMemoryError)

    def empty_cache(self) -> None:
        self.num_cache_clears += 1

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError(LOST)
        for stream in self._streams:
            stream.run_to(None)

    def memory_bytes(self) -> int:
        return 1

    @property
    def total_memory_bytes(self) -> int:
        return 2**30

    def lose(self) -> None:
        """Fail as a GPU after an illegal memory access: now and in every later `synchronize`."""
        self.lost = True
        raise RuntimeError(LOST)

    def _is_pinned(self, host: Tensor) -> bool:
        if not host.numel():
            return True
        first, last = host.data_ptr(), host.data_ptr() + host.numel()
        blocks = [*self.pinned.items()]
        return any(start <= first and last <= start + size for start, size in blocks)

    def _step(self, name: str, num_bytes: int) -> None:
        if name != "allocate":
            self.log.append(name)
        self.fault(name, num_bytes)


class MetaDriver(FakeDriver):
    """A device whose tensors have no values: to read one on the host raises an exception.

    The values of results are arbitrary.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        assert {to.device.type, source.device.type} == {"cpu", "meta"}
        host = source if to.is_meta else to
        assert self._is_pinned(host), "a copy to or from memory that is not pinned blocks"
        self.sources.append(source.data_ptr())


def copy(to: Tensor, source: Tensor) -> None:
    to.copy_(source)
