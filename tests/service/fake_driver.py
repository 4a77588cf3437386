"""A device that is none: tensors of the CPU behind a driver whose copies are as late as may be.

What is put into a stream is done when somebody waits for an event behind it, not before: whoever
forgets to wait reads poison. Faults are injected by a function that is told of each step.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

POISON = 0xA5

STREAMS = ("bring", "compute", "fetch")


class Event:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.time = 0.0

    def record(self, stream: "Stream") -> None:
        self.stream = stream
        stream.put(self)

    def synchronize(self) -> None:
        assert self.stream is not None, "waited for before it was recorded"
        self.stream.run_to(self)

    def elapsed_time(self, end_event: "Event") -> float:
        assert self.time, "it has not come"
        assert end_event.time, "it has not come"
        return 1e3 * (end_event.time - self.time)


class Stream:
    def __init__(self, name: str) -> None:
        self.name = name
        self.last: Event | None = None
        self.behind: Event | None = None
        self._due: deque[Event | Callable[[], None]] = deque()
        self._lock = threading.RLock()

    def put(self, work: Event | Callable[[], None]) -> None:
        with self._lock:
            self._due.append(work)
            self.last = work if isinstance(work, Event) else self.last

    def wait_event(self, event: Event) -> None:
        event.synchronize()
        self.behind = event

    def run_to(self, event: Event | None) -> None:
        """Do what is due, up to an event, or all of it."""
        with self._lock:
            while self._due and not (event is not None and event.time):
                work = self._due.popleft()
                if isinstance(work, Event):
                    work.time = time.perf_counter()
                else:
                    work()


class FakeDriver:
    """Counts what it is asked for.

    `fault(step, num_bytes)` may raise, or not come back, at allocate, bring, compute and fetch.
    """

    def __init__(self, fault: Callable[[str, int], None] = lambda *_: None) -> None:
        self.device = torch.device("cpu")
        self.fault = fault
        self.lost = False
        self.log: list[str] = []
        self.sources: list[int] = []
        self.pinner: dict[int, int] = {}
        self.num_pins = 0
        self.pinning_threads: set[int] = set()
        self.num_emptied = 0
        self._streams: list[Stream] = []
        self._now = threading.local()

    def pin(self, address: int, num_bytes: int) -> bool:
        self.pinner[address] = num_bytes
        self.num_pins += 1
        self.pinning_threads.add(threading.get_ident())
        return True

    def unpin(self, address: int) -> None:
        del self.pinner[address]

    def stream(self) -> Stream:
        stream = Stream(STREAMS[len(self._streams)])
        self._streams.append(stream)
        return stream

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        self._now.stream = stream
        try:
            if stream.name == "compute":
                self.step("compute", 0)
            yield
            if stream.name == "compute":
                self.log.append("computed")
        finally:
            self._now.stream = None

    def event(self) -> Event:
        return Event()

    def empty(self, num_bytes: int) -> Tensor:
        self.step("allocate", num_bytes)
        return torch.full((num_bytes,), POISON, dtype=torch.uint8)

    def copy(self, to: Tensor, source: Tensor) -> None:
        stream = self._now.stream
        assert stream is not None, "on no stream"
        assert to.shape == source.shape
        host = source if stream.name == "bring" else to
        assert self.is_pinned(host), "a copy to or from memory that is not pinned waits"
        if stream.name == "fetch":  # what computes here is never late, so that poison cannot tell
            assert stream.behind is self._streams[1].last, "it does not wait for the computing"
        self.sources.append(source.data_ptr())
        self.step(stream.name, source.numel())
        stream.put(lambda: _copy(to, source))

    def is_pinned(self, host: Tensor) -> bool:
        if not host.numel():
            return True
        first, last = host.data_ptr(), host.data_ptr() + host.numel()
        return any(at <= first and last <= at + size for at, size in [*self.pinner.items()])

    def is_full(self, failure: Exception) -> bool:
        return isinstance(failure, torch.OutOfMemoryError)

    def empty_cache(self) -> None:
        self.num_emptied += 1

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        for stream in self._streams:
            stream.run_to(None)

    def memory_bytes(self) -> int:
        return 1

    def step(self, name: str, num_bytes: int) -> None:
        if name != "allocate":
            self.log.append(name)
        self.fault(name, num_bytes)

    def lose(self) -> None:
        """Fail as a GPU does whose memory was reached into: now and ever after."""
        self.lost = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class MetaDriver(FakeDriver):
    """A device whose tensors have no values: to read one on the host raises.

    Answers hold anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("meta")

    def empty(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        assert {to.device.type, source.device.type} == {"cpu", "meta"}
        host = source if to.is_meta else to
        assert self.is_pinned(host), "a copy to or from memory that is not pinned waits"
        self.sources.append(source.data_ptr())


def _copy(to: Tensor, source: Tensor) -> None:
    to.copy_(source)
