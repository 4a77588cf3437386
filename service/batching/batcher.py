"""Batch while busy: an idle device starts a call at once, and calls that arrive meanwhile wait.

Guarantees: the other calls of a batch do not change the result of a call, each call gets one
result or exception, and nothing polls. This file knows neither tensors nor HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Generic

from service.access.tenant import ANONYMOUS, Tenant
from service.batching.admission import MAX_OF_FREE
from service.batching.bisect import Runs, run_bisecting
from service.batching.call_queue import Batchable, C, Entry, R, next_batch
from service.batching.fair_queue import FairQueue
from service.batching.load_estimate import LoadEstimate, StartedRun
from service.batching.run import Completed, Run
from service.errors import DeviceLost, DeviceStuck, Expired, Overloaded, ShuttingDown, TimedOut
from service.observability.metrics import Metrics

log = logging.getLogger("rope.failures")

CloseReason = type[ShuttingDown] | type[DeviceLost] | type[DeviceStuck]
"""Why the batcher accepts no more calls."""

WATCHDOG_FACTOR = 10
"""A run may take this many times its estimate, because estimates are rough."""

LAST_DEPTH = 14
"""The last bucket of `arrival_depths`: deeper queues."""

_call, _seconds = attrgetter("call"), attrgetter("seconds")


@dataclass(eq=False)
class Batcher(Generic[C, R]):
    """One queue before one device. All methods are for the event loop's thread."""

    run: Callable[[Sequence[C]], Run[R | Exception]]
    """Computes calls of one batch key. An exception among the results belongs to its call alone.
    Raises DeviceLost if the device has failed for good."""

    executor: Executor
    """Threads for long runs, one for each run in flight."""

    _: KW_ONLY

    max_inflight: int
    """How many runs may be in flight at a time."""

    inline_limit_s: float
    """Calls whose estimate is less run on the event loop: a hand-off to a thread costs too much."""

    stuck_s: float | None
    """How long the device may show no progress while calls are in flight, and at least
    WATCHDOG_FACTOR times their estimates, before it counts as stuck. None: there is no limit."""

    on_failure: Callable[[DeviceLost | DeviceStuck], None]
    """Called once if the device is lost or stuck, after all calls have failed."""

    max_batch_tokens: int
    max_batch_bytes: int
    """Limits of a batch; a larger call runs alone."""

    max_queue_calls: int
    """Most calls that wait. This limits memory; `load` limits the wait."""

    load: LoadEstimate
    """Estimates the outstanding work, and refuses calls whose predicted wait is too long."""

    add_compute: Callable[[Tenant, float], None]
    """Called with the tenant of a call and the device time of the call, in seconds."""

    metrics: Metrics
    """Where sizes and times are recorded."""

    _queue: FairQueue[Entry[C, R]] = field(default_factory=FairQueue, init=False)
    _running: list[list[Entry[C, R]]] = field(default_factory=list, init=False)
    _expected_ends: dict[StartedRun, asyncio.TimerHandle] = field(default_factory=dict, init=False)
    _watchdog: asyncio.TimerHandle | None = field(default=None, init=False)
    _is_dispatch_scheduled: bool = field(default=False, init=False)
    _is_paused: bool = field(default=False, init=False)
    _close_reason: CloseReason | None = field(default=None, init=False)

    @property
    def waiting(self) -> list[C]:
        """The calls in the queue."""
        return list(map(_call, self._queue))

    @property
    def num_waiting(self) -> int:
        """How many calls are in the queue."""
        return self._queue.num_calls

    @property
    def num_unfinished(self) -> int:
        """How many calls are in the queue or in a run."""
        return self._queue.num_calls + sum(map(len, self._running))

    def enqueue(self, entry: Entry[C, R]) -> None:
        """Put a call into the queue, behind those of its tenant that arrived earlier.

        Raises:
            Overloaded: too many calls are waiting, or the predicted wait is too long.
            ShuttingDown, DeviceLost, DeviceStuck: the batcher is closed.
        """
        if self._close_reason is not None:
            raise self._close_reason
        queue = self._queue
        tenant = entry.tenant
        entry.enqueued = now = time.monotonic()
        recent, depths, depth = self.metrics.recent, self.metrics.arrival_depths, queue.num_calls
        depths.counts[min(depth.bit_length(), LAST_DEPTH)] += 1
        depths.total += depth
        if now >= recent.end:
            recent.advance(now)
        if tenant is not ANONYMOUS or depth >= self.max_queue_calls:
            self._check_num_calls(tenant)
        self.load.add(entry.call, now, entry.deadline, queue, tenant)
        lane, entries = queue.latest, queue.latest.entries
        is_last = entries[-1].arrived <= entry.arrived if entries else lane is queue.only
        if is_last and lane.tenant is tenant:  # fast path without a call of `insert`
            if not entries and not self._running:
                lane.start = queue.virtual_time - lane.burst
            entries.append(entry)
            lane.seconds += entry.call.seconds
            queue.num_calls += 1
        else:
            queue.insert(entry, is_idle=not self._running)
        if queue.num_calls > recent.current.depth:
            recent.current.depth = queue.num_calls
        if self._running or self._is_paused:
            self._arm_timer(entry)
        if not self._is_dispatch_scheduled:
            self._schedule_dispatch()

    def check(
        self, deadline: float, tenant: Tenant = ANONYMOUS, call: Batchable | None = None
    ) -> None:
        """Check that a call could be put into the queue now.

        Args:
            deadline: time of `time.monotonic`.
            tenant: tenant that sent the call.
            call: the call; None: the request has not been parsed yet.

        Raises:
            Overloaded: as `enqueue`.
        """
        try:
            self._check_num_calls(tenant)
            self.load.check(time.monotonic(), deadline, call, self._queue, tenant)
        except Overloaded:
            self.metrics.arrival_depths.observe(self._queue.num_calls)
            raise

    def pause(self) -> None:
        """Start no runs until `resume`; calls wait in the queue."""
        self._is_paused = True

    def resume(self) -> None:
        """Start runs again after `pause`."""
        self._is_paused = False
        self.load.skip(time.monotonic())
        self._schedule_dispatch()

    def withdraw(self, entry: Entry[C, R], reason: Exception) -> None:
        """Fail a call with `reason`, and remove it from the queue if it waits there."""
        if entry in self._queue:
            self._queue.remove(entry)
            self.load.remove(entry.call)
            entry.resolve(reason)
        else:  # the call is in a run, or has its result
            entry.abandon(reason)

    def expire(self, entry: Entry[C, R]) -> None:
        """Fail a call that has waited too long; a call in a run goes on."""
        if entry in self._queue:
            self.withdraw(entry, Expired())

    def close(self, reason: CloseReason = ShuttingDown) -> None:
        """Accept no more calls, and fail those that have no result yet.

        If the batcher is closed twice, `enqueue` raises the first reason.
        """
        self._close_reason = self._close_reason or reason
        waiting = [*self._queue]
        self._queue.clear()
        self.load.clear()
        for entry in waiting:
            entry.resolve(reason())
        for entry in chain.from_iterable(self._running):
            entry.abandon(reason())

    def restart_watchdog(self) -> None:
        """Restart the device's time limit: it has a new run, or has shown progress.

        Progress of one run counts for all in flight, as one may wait for another.
        """
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        calls = list(map(_call, chain.from_iterable(self._running)))
        if calls and self.stuck_s is not None:
            timeout = max(self.stuck_s, WATCHDOG_FACTOR * sum(map(_seconds, calls)))
            loop = asyncio.get_running_loop()
            self._watchdog = loop.call_later(timeout, self._fail, DeviceStuck)

    def _schedule_dispatch(self) -> None:
        """Run `_dispatch` once all sockets that are readable now have been read."""
        is_busy = self._is_paused or len(self._running) == self.max_inflight
        if self._queue.num_calls and not self._is_dispatch_scheduled and not is_busy:
            self._is_dispatch_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start the next run: on the event loop if it is short, else on a thread."""
        self._is_dispatch_scheduled = False
        now = time.monotonic()
        batch, is_short = next_batch(
            self._queue,
            self.load,
            max_tokens=self.max_batch_tokens,
            max_bytes=self.max_batch_bytes,
            inline_limit_s=self.inline_limit_s,
            now=now,
        )
        if not batch:
            return
        calls = list(map(_call, batch))
        started = self.load.start(calls, batch[0].enqueued, now)
        if is_short:
            self._complete(batch, started, run_bisecting(self.run, calls, self.restart_watchdog))
            return
        self._running.append(batch)
        self.metrics.recent.running.append(now)
        self._await_end(started)
        for entry in (*batch, *self._queue):
            self._arm_timer(entry)
        self.restart_watchdog()
        loop = asyncio.get_running_loop()

        def call_on_loop(callback: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop has ended, and no call waits for a result
                loop.call_soon_threadsafe(callback, *arguments)

        on_progress = partial(call_on_loop, self.restart_watchdog)
        run = partial(run_bisecting, self.run, calls, on_progress)
        work: Future[Runs[R]] = self.executor.submit(run)
        work.add_done_callback(partial(call_on_loop, self._on_run_done, batch, started))
        self._schedule_dispatch()

    def _await_end(self, run: StartedRun) -> None:
        """Double the expected time of a run whenever that time has passed."""

        def extend() -> None:
            self.load.extend(run)
            self._await_end(run)

        left_s = max(0.0, run.started + run.expected_s - time.monotonic())
        self._expected_ends[run] = asyncio.get_running_loop().call_later(left_s, extend)

    def _on_run_done(
        self, batch: list[Entry[C, R]], started: StartedRun, done: Future[Runs[R]]
    ) -> None:
        self._running.remove(batch)
        recent, ended = self.metrics.recent, time.monotonic()
        if ended >= recent.end:
            recent.advance(ended)  # while the run counts as one that goes on
        recent.running.remove(started.started)
        self._expected_ends.pop(started).cancel()
        self.restart_watchdog()
        self._complete(batch, started, done.result())

    def _complete(self, batch: list[Entry[C, R]], started: StartedRun, runs: Runs[R]) -> None:
        """Give each call its result, record metrics, and start the next run."""
        entries, metrics = iter(batch), self.metrics
        waits: list[float] = []
        num_tokens = num_late = 0
        ended = time.monotonic()
        self.load.end(started, ended)
        recent = metrics.recent
        if ended >= recent.end:
            recent.advance(ended)
        second = recent.current
        second.busy_s += ended - max(started.started, recent.begin)
        metrics.device_busy_seconds.inc(ended - started.started)
        for run in runs:
            metrics.copy_seconds.observe(run.copy_s)
            metrics.compute_seconds.observe(run.compute_s)
            num_calls = len(run.results)
            second.copy_s += run.copy_s * num_calls
            second.compute_s += run.compute_s * num_calls
            for result in run.results:
                entry = next(entries)
                queue_s = started.started - entry.enqueued
                num_late += entry.deadline < ended
                waits.append(queue_s)
                num_tokens += entry.call.num_tokens
                outcome: Completed[R] | Exception
                if isinstance(result, Exception):
                    outcome = result
                else:
                    outcome = Completed(result, queue_s, run.copy_s, run.compute_s, num_calls)
                try:
                    entry.resolve(outcome)
                except Exception:  # the other calls of the batch must get their outcomes
                    log.exception("an outcome could not be delivered")
        second.runs += 1
        second.calls += len(batch)
        second.tokens += num_tokens
        second.wait_s += sum(waits)
        second.wait_max_s = max(second.wait_max_s, *waits)
        metrics.queue_seconds.observe_all(waits)
        metrics.batch_requests.observe(len(batch))
        metrics.batch_tokens.observe(num_tokens)
        if batch[0].tenant is not ANONYMOUS:
            self._charge_tenants(batch, runs)
        if num_late:
            metrics.late_calls.inc(num_late)
        if isinstance(result, DeviceLost):  # the last one, as no run succeeds after a loss
            self._fail(DeviceLost)
        if self._queue.num_calls:
            self._schedule_dispatch()

    def _charge_tenants(self, batch: Sequence[Entry[C, R]], runs: Runs[R]) -> None:
        """Divide the device time of each run among its calls, in proportion to their estimates."""
        entries = iter(batch)
        for run in runs:
            run_entries = [next(entries) for _ in run.results]
            estimated_s = sum(entry.call.seconds for entry in run_entries)
            for entry in run_entries:
                share = entry.call.seconds / estimated_s if estimated_s else 1 / len(run_entries)
                self.add_compute(entry.tenant, run.compute_s * share)

    def _fail(self, reason: type[DeviceLost] | type[DeviceStuck]) -> None:
        """Close because the device has failed, unless this was done before."""
        if self._close_reason in (None, ShuttingDown):
            self._close_reason = reason
            self.close(reason)
            self.on_failure(reason())

    def _check_num_calls(self, tenant: Tenant) -> None:
        """Raise Overloaded if too many calls wait, or too many of the tenant."""
        queue = self._queue
        num_free = self.max_queue_calls - queue.num_calls
        if num_free <= 0:
            raise Overloaded(f"{queue.num_calls} calls are waiting already (ROPE_MAX_QUEUE_CALLS)")
        if tenant is not ANONYMOUS and queue.num_calls_of(tenant) >= MAX_OF_FREE * num_free:
            raise Overloaded(
                f"{queue.num_calls_of(tenant)} calls of the API key are waiting already"
            )

    def _arm_timer(self, entry: Entry[C, R]) -> None:
        """Limit the wait of a call by its deadline, and call `on_wait`; once for each entry."""
        if entry.timer is None:
            loop = asyncio.get_running_loop()
            left_s = max(0, entry.deadline - time.monotonic())
            entry.timer = loop.call_later(left_s, self.withdraw, entry, TimedOut())
            entry.on_wait()
