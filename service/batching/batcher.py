"""Calls that may run together, run together.

Batch while busy: an idle device starts at once, what arrives meanwhile forms the next batch.
Three promises: a call's answer does not depend on its neighbours, every call is answered once, and
nothing polls. Knows no tensors and no HTTP.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.errors import DeviceLost, DeviceStuck, Expired, Overloaded, ShuttingDown, TimedOut
from service.observability.metrics import Metrics


class Batchable(Protocol):
    """What the batcher has to know of a call."""

    @property
    def batch_key(self) -> Hashable:
        """Calls of equal keys may share a run."""

    @property
    def num_tokens(self) -> int:
        """Its share of a batch's budget of tokens."""

    @property
    def num_bytes(self) -> int:
        """Its share of a batch's budget of bytes."""


Reason = type[ShuttingDown] | type[DeviceLost] | type[DeviceStuck]
"""Why no more calls are accepted."""

C = TypeVar("C", bound=Batchable)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Run(Generic[R_co]):
    """What one go of the device gave: a result for each call, in their order.

    A failure among the results is the answer to its call alone.
    """

    results: Sequence[R_co]
    copy_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Completed(Generic[R]):
    """The answer to one call, and the times of the run it was part of."""

    result: R
    queue_s: float
    copy_s: float
    compute_s: float
    num_calls: int
    """Calls of that run."""


@dataclass(slots=True, eq=False)
class Entry(Generic[C, R]):
    """A call in the queue or on the device, and its waiter."""

    call: C
    future: asyncio.Future[Completed[R]]
    arrived: float
    deadline: float
    """Time of `time.monotonic` beyond which nobody wants the answer."""

    on_wait: Callable[["Entry[C, R]"], None]
    """Called once, if the call has to wait for a device at work."""

    timer: asyncio.TimerHandle | None = field(default=None)


class Batcher(Generic[C, R]):
    """One queue before one device.

    Args:
        run: answers calls of one batch key, with a failure in the place of a call that failed
            alone; raises DeviceLost if it never will again.
        device: the threads that long runs are handed to, one for each lane.
        max_inflight: runs in flight at a time.
        inline: tells whether a run is shorter than the hand-off, so that it runs on the event loop.
        watchdog_timeout_s: how long the device may answer nothing, with these calls in flight, before they
            are given up; None: they never are.
        on_failure: told, once, that the device is lost or stuck; all calls have an answer then.
        max_batch_tokens, max_batch_bytes: what a batch may hold; a larger call runs alone.
        max_queue_calls: calls waiting, beyond which one is refused.
        metrics: where sizes and times are counted.
    """

    def __init__(
        self,
        run: Callable[[Sequence[C]], Run[R | Exception]],
        device: Executor,
        *,
        max_inflight: int,
        inline: Callable[[Sequence[C]], bool],
        watchdog_timeout_s: Callable[[Sequence[C]], float | None],
        on_failure: Callable[[DeviceLost | DeviceStuck], None],
        max_batch_tokens: int,
        max_batch_bytes: int,
        max_queue_calls: int,
        metrics: Metrics,
    ) -> None:
        self._run = run
        self._device = device
        self._max_inflight = max_inflight
        self._inline = inline
        self._watchdog_timeout_s = watchdog_timeout_s
        self._on_failure = on_failure
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_bytes = max_batch_bytes
        self._max_queue_calls = max_queue_calls
        self._metrics = metrics
        self._queue: deque[Entry[C, R]] = deque()
        self._running: list[list[Entry[C, R]]] = []
        self._watchdog: asyncio.TimerHandle | None = None
        self._turn_due = False
        self._held = False
        self._closed: Reason | None = None

    @property
    def waiting(self) -> list[C]:
        """The calls in the queue."""
        return [entry.call for entry in self._queue]

    def submit(
        self, call: C, deadline: float, on_wait: Callable[[Entry[C, R]], None]
    ) -> Entry[C, R]:
        """Queue a call; the entry's `answer` is set once.

        Raises:
            Overloaded: too many calls are waiting.
            ShuttingDown, DeviceLost, DeviceStuck: no more are accepted.
        """
        if self._closed is not None:
            raise self._closed
        if len(self._queue) >= self._max_queue_calls:
            raise Overloaded(f"{len(self._queue)} calls are waiting already")
        waiter: asyncio.Future[Completed[R]] = asyncio.get_running_loop().create_future()
        entry: Entry[C, R] = Entry(call, waiter, time.monotonic(), deadline, on_wait)
        self._queue.append(entry)
        if self._running or self._held:
            self._guard(entry)
        self._wake()
        return entry

    def hold(self) -> None:
        """Run nothing until `release`: calls wait in the queue."""
        self._held = True

    def release(self) -> None:
        """Run what waits, and what comes."""
        self._held = False
        self._wake()

    def withdraw(self, entry: Entry[C, R], reason: Exception) -> None:
        """Answer a call with `reason`, and take it from the queue if it is still there."""
        _settle(entry, reason)
        if entry in self._queue:
            self._queue.remove(entry)

    def expire(self, entry: Entry[C, R]) -> None:
        """Give up a call that has waited as long as it may, unless it is in a run."""
        if entry in self._queue:
            self.withdraw(entry, Expired())

    def close(self, reason: Reason = ShuttingDown) -> None:
        """Accept no more, and answer whoever still waits; the first reason stays."""
        self._closed = self._closed or reason
        for entry in (*self._queue, *(entry for batch in self._running for entry in batch)):
            _settle(entry, reason())
        self._queue.clear()

    def _fail(self, reason: type[DeviceLost] | type[DeviceStuck]) -> None:
        if self._closed in (None, ShuttingDown):
            self._closed = reason
            self.close(reason)
            self._on_failure(reason())

    def _wake(self) -> None:
        busy = self._held or len(self._running) == self._max_inflight
        if self._queue and not self._turn_due and not busy:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Run the next batch: here if it is quick, else on one of the device's threads."""
        self._turn_due = False
        batch = self._take()
        if not batch:
            return
        calls = [entry.call for entry in batch]
        started = time.monotonic()
        if self._inline(calls):
            self._finish(batch, started, self._attempt(calls))
            return
        self._running.append(batch)
        for entry in (*batch, *self._queue):
            self._guard(entry)
        self.restart_watchdog()
        tell = asyncio.get_running_loop().call_soon_threadsafe

        def hand_back(done: Future[list[Run[R | Exception]]]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all have an answer
                tell(self._returned, batch, started, done)

        def live() -> None:
            with contextlib.suppress(RuntimeError):
                tell(self.restart_watchdog)

        self._device.submit(self._attempt, calls, live).add_done_callback(hand_back)
        self._wake()

    def restart_watchdog(self) -> None:
        """Give the device its time from now on: it has more to do, or has just shown that it lives.

        One lane may wait for the other, so that what one does is a sign for both. To be called on
        the event loop.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        calls = [entry.call for batch in self._running for entry in batch]
        if calls and (patience := self._watchdog_timeout_s(calls)) is not None:
            loop = asyncio.get_running_loop()
            self._watchdog = loop.call_later(patience, self._fail, DeviceStuck)

    def _returned(
        self, batch: list[Entry[C, R]], started: float, done: Future[list[Run[R | Exception]]]
    ) -> None:
        self._running.remove(batch)
        self.restart_watchdog()
        self._finish(batch, started, done.result())

    def _finish(
        self, batch: list[Entry[C, R]], started: float, runs: Sequence[Run[R | Exception]]
    ) -> None:
        answered = [(result, run) for run in runs for result in run.results]
        for entry, (result, run) in zip(batch, answered, strict=True):
            if isinstance(result, Exception):
                _settle(entry, result)
            else:
                waited, calls = started - entry.arrived, len(run.results)
                _settle(entry, Completed(result, waited, run.copy_s, run.compute_s, calls))
        metrics = self._metrics
        for run in runs:
            metrics.copy_seconds.observe(run.copy_s)
            metrics.compute_seconds.observe(run.compute_s)
        metrics.batch_requests.observe(len(batch))
        metrics.batch_tokens.observe(sum(entry.call.num_tokens for entry in batch))
        for entry in batch:
            metrics.queue_seconds.observe(started - entry.arrived)
        if isinstance(runs[-1].results[-1], DeviceLost):  # as all are that come after one
            self._fail(DeviceLost)
        self._wake()

    def _attempt(
        self, calls: Sequence[C], live: Callable[[], None] | None = None
    ) -> list[Run[R | Exception]]:
        """Run calls; where that raises, halves of them, so that only the culprit fails."""
        try:
            return [self._run(calls)]
        except DeviceLost:
            return [Run([DeviceLost() for _ in calls], 0.0, 0.0)]
        except Exception as failure:  # whatever it is, it is this call's answer
            if len(calls) == 1:
                return [Run([failure], 0.0, 0.0)]
        if live is not None:
            live()
        middle = len(calls) // 2
        return self._attempt(calls[:middle], live) + self._attempt(calls[middle:], live)

    def _take(self) -> list[Entry[C, R]]:
        """Remove the next batch from the queue: the oldest call, and those that fit with it."""
        batch: list[Entry[C, R]] = []
        others: list[Entry[C, R]] = []
        tokens = num_bytes = 0
        now = time.monotonic()
        while self._queue:
            entry = self._queue.popleft()
            if entry.deadline <= now:
                _settle(entry, TimedOut())
                continue
            call = entry.call
            if not batch:
                key = call.batch_key
            elif call.batch_key != key:
                others.append(entry)
                continue
            tokens += call.num_tokens
            num_bytes += call.num_bytes
            if batch and (tokens > self._max_batch_tokens or num_bytes > self._max_batch_bytes):
                others.append(entry)
                break
            batch.append(entry)
        self._queue.extendleft(reversed(others))
        return batch

    def _guard(self, entry: Entry[C, R]) -> None:
        """Watch over a call that has to wait: its deadline, and whatever its asker adds."""
        if entry.timer is None:
            loop = asyncio.get_running_loop()
            left = entry.deadline - time.monotonic()
            entry.timer = loop.call_later(max(0, left), self.withdraw, entry, TimedOut())
            entry.on_wait(entry)


def _settle(entry: Entry[C, R], outcome: Completed[R] | Exception) -> None:
    """Answer an entry, unless it has been answered."""
    if entry.timer is not None:
        entry.timer.cancel()
    if entry.future.done():
        return
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(outcome)
