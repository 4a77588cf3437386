"""What the tests of the batcher run: integers for calls, doubled, by a device that can be held."""

import asyncio
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.access.tenant import ANONYMOUS, Tenant
from service.batching.batcher import Batcher
from service.batching.call_queue import Entry, FutureEntry
from service.batching.load_estimate import LoadEstimate
from service.batching.run import Run
from service.observability.metrics import Metrics

COPY_S, COMPUTE_S = 0.25, 0.5
"""Times that each run reports."""


@dataclass(frozen=True)
class Call:
    value: int
    batch_key: str = "one"
    num_tokens: int = 1
    num_bytes: int = 1
    seconds: float = 0.01
    kind: str = "doubling"


class Doubler:
    """Doubles the values of its calls; raises an exception if one is negative."""

    def __init__(self, error: type[Exception] = ValueError) -> None:
        self.runs: list[list[int]] = []
        self.threads: set[str] = set()
        self._error = error

    def __call__(self, calls: Sequence[Call]) -> Run[int]:
        self.threads.add(threading.current_thread().name)
        self.runs.append([call.value for call in calls])
        self.wait(calls[0].value)
        if any(call.value < 0 for call in calls):
            raise self._error
        return Run([2 * call.value for call in calls], COPY_S, COMPUTE_S)

    def wait(self, first: int) -> None:
        """Return at once: nothing is held."""

    def release(self) -> None:
        """Let all runs end."""


class HeldDoubler(Doubler):
    """A doubler whose runs end when the test says so."""

    def __init__(self, error: type[Exception] = ValueError) -> None:
        super().__init__(error)
        self._started = threading.Semaphore(0)
        self._ends: dict[int, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
        self._released = threading.Event()

    def wait(self, first: int) -> None:
        end = self._ends[first]
        self._started.release()
        if not self._released.is_set():
            assert end.acquire(timeout=10)

    async def started(self) -> None:
        """Wait until one more run has started."""
        assert await asyncio.to_thread(self._started.acquire, timeout=10)

    def end(self, first: int) -> None:
        """End the run whose first value this is."""
        self._ends[first].release()

    def release(self) -> None:
        """Let all runs end, and hold none that starts later."""
        self._released.set()
        for end in [*self._ends.values()]:
            end.release()


class Submitter:
    """Submits calls to a batcher, and records those that were notified that they wait."""

    def __init__(self, batcher: Batcher, failures: list[Exception], computed: Counter) -> None:
        self.batcher = batcher
        self.failures = failures
        self.computed = computed
        """Seconds by name of the tenant."""
        self.notified: list[int] = []

    def submit(
        self, value: int, *, timeout_s: float = 10.0, tenant: Tenant = ANONYMOUS, **call: object
    ) -> Entry:
        now, future = time.monotonic(), asyncio.get_running_loop().create_future()
        entry = FutureEntry(
            Call(value, **call),
            now,
            now + timeout_s,
            future,
            lambda entry: self.notified.append(entry.call.value),
            tenant=tenant,
        )
        self.batcher.enqueue(entry)
        return entry

    async def result(self, value: int, **call: object) -> int:
        return (await self.submit(value, **call).future).result


@asynccontextmanager
async def batching(
    run: Doubler,
    *,
    inline: bool = False,
    inline_limit_s: float = 0.0,
    max_inflight: int = 1,
    stuck_s: float | None = 60,
    max_queue_s: float = 60,
    **limits: int,
) -> AsyncIterator[Submitter]:
    limits = {"max_batch_tokens": 64, "max_batch_bytes": 64, "max_queue_calls": 64, **limits}
    failures: list[Exception] = []
    computed: Counter = Counter()
    with ThreadPoolExecutor(max_inflight, thread_name_prefix="device") as threads:
        batcher = Batcher(
            run,
            threads,
            max_inflight=max_inflight,
            inline_limit_s=math.inf if inline else inline_limit_s,
            stuck_s=stuck_s,
            on_failure=failures.append,
            metrics=Metrics(),
            load=LoadEstimate(max_queue_s),
            add_compute=lambda tenant, seconds: computed.update({tenant.name: seconds}),
            **limits,
        )
        try:
            yield Submitter(batcher, failures, computed)
        finally:
            run.release()
            batcher.close()
    await asyncio.sleep(0)  # let the batcher see the runs that have ended


class LoopClock:
    """Replaces the clock of the running event loop: its timers run out when the test says so."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time()
        self._loop.time = lambda: self._now

    async def advance(self, seconds: float) -> None:
        """Let time pass, and run the timers that run out until then."""
        passed = self._loop.create_future()
        self._loop.call_later(seconds, passed.set_result, None)
        self._now += seconds
        await passed
