"""Calls that wait for the device, and the choice of those that share a run."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import inf
from typing import Generic, Protocol, TypeVar

from service.access.tenant import ANONYMOUS, Tenant
from service.batching.fair_queue import FairQueue
from service.batching.load_estimate import CALL_S, Estimated, LoadEstimate
from service.batching.run import Completed
from service.errors import TimedOut


class Batchable(Estimated, Protocol):
    """A call, as the batcher needs it."""

    @property
    def batch_key(self) -> Hashable:
        """Calls with equal keys may share a run."""

    @property
    def num_tokens(self) -> int:
        """Tokens, counted against the limit of a batch."""

    @property
    def num_bytes(self) -> int:
        """Bytes, counted against the limit of a batch."""


C = TypeVar("C", bound=Batchable)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Entry(ABC, Generic[C, R]):
    """A call in the queue or on the device. A subclass delivers its outcome."""

    call: C
    arrived: float
    """Time of `time.monotonic` when the request's header arrived; the oldest call runs first."""

    deadline: float
    """Time of `time.monotonic` after which the call fails with TimedOut."""

    tenant: Tenant = field(default=ANONYMOUS, kw_only=True)
    """Tenant that sent the request."""

    enqueued: float = field(default=0.0, init=False)
    """Time of `time.monotonic` when the call was put into the queue."""

    timer: asyncio.TimerHandle | None = field(default=None, init=False)
    """Fires at the deadline. None for a call that has not had to wait."""

    @abstractmethod
    def resolve(self, outcome: Completed[R] | Exception) -> None:
        """Set the result or the exception of the call. The first outcome counts. Raises nothing."""

    def abandon(self, reason: Exception) -> None:
        """Fail a call that is in a run: nobody waits for it any more. `resolve` follows at its end.

        Does nothing if the call has its outcome. Raises nothing.
        """
        self.resolve(reason)

    def on_wait(self) -> None:
        """Called at most once: when the call starts to wait for a busy device."""


@dataclass(slots=True, eq=False)
class FutureEntry(Entry[C, R]):
    """A call whose outcome is the result or the exception of a future."""

    future: asyncio.Future[Completed[R]]
    start_watching: Callable[["FutureEntry[C, R]"], None] | None = None
    """Called at most once: when the call starts to wait for a busy device."""

    def resolve(self, outcome: Completed[R] | Exception) -> None:
        """Set the result or the exception of the future, unless it has one."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def on_wait(self) -> None:
        """Start to watch the client."""
        if self.start_watching is not None:
            self.start_watching(self)


def next_batch(
    queue: FairQueue[Entry[C, R]],
    load: LoadEstimate,
    *,
    max_tokens: int,
    max_bytes: int,
    inline_limit_s: float,
    now: float,
) -> tuple[list[Entry[C, R]], bool]:
    """Remove the next batch from the queue: the first call, and later ones with an equal key.

    The batch ends before the first call with this key that exceeds a limit. A call that exceeds a
    limit on its own runs alone. A call that is expected to end after its deadline fails with
    TimedOut, unless it is the only call. A call that would make another call of the batch miss its
    deadline is not added.

    Returns:
        The batch, and whether it is short: its estimates are less than `inline_limit_s` together.
        If the first call is short, the batch ends before the call that exceeds this limit.
    """
    batch: list[Entry[C, R]] = []
    late: list[Entry[C, R]] = []
    num_tokens = num_bytes = 0
    seconds = expected_s = correction = 0.0
    kind, earliest = None, inf
    is_short = False
    only = queue.only
    for entry in queue.in_order() if only is None else only.entries:
        call = entry.call
        if not batch:
            key, is_short = call.batch_key, call.seconds < inline_limit_s
        elif call.batch_key != key:
            continue
        if call.kind != kind:
            kind, correction = call.kind, load.kinds[call.kind].correction
        call_s = (call.seconds + CALL_S) * correction
        end = now + expected_s + call_s
        is_alone = queue.num_calls == len(late) + 1 and not load.running
        if entry.deadline <= now or (entry.deadline < end and not is_alone):
            late.append(entry)
            continue
        num_tokens += call.num_tokens
        num_bytes += call.num_bytes
        seconds += call.seconds
        if batch and (
            num_tokens > max_tokens
            or num_bytes > max_bytes
            or (is_short and seconds >= inline_limit_s)
            or end > earliest
        ):
            break
        batch.append(entry)
        expected_s += call_s
        earliest = min(earliest, entry.deadline)
    queue.serve(batch)
    for entry in late:
        queue.remove(entry)
        load.remove(entry.call)
        entry.resolve(TimedOut())
    return batch, is_short
