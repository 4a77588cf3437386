"""Calls that wait for the device, and the choice of those that share a run."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from service.batching.run import Completed
from service.errors import TimedOut


class Batchable(Protocol):
    """What batching has to know of a call."""

    @property
    def batch_key(self) -> Hashable:
        """Calls with equal keys may share a run."""

    @property
    def num_tokens(self) -> int:
        """Tokens, counted against the limit of a batch."""

    @property
    def num_bytes(self) -> int:
        """Bytes, counted against the limit of a batch."""

    @property
    def seconds(self) -> float:
        """Estimated time of the call when it runs alone."""


C = TypeVar("C", bound=Batchable)
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Entry(Generic[C, R]):
    """A call in the queue or on the device, and the future of its result."""

    call: C
    future: asyncio.Future[Completed[R]]
    arrived: float
    deadline: float
    """Time of `time.monotonic` after which the call fails with TimedOut."""

    on_wait: Callable[["Entry[C, R]"], None]
    """Called at most once: when the call starts to wait for a busy device."""

    timer: asyncio.TimerHandle | None = None
    """Runs out at the deadline. None for a call that has not had to wait."""

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


def next_batch(queue: deque[Entry[C, R]], *, max_tokens: int, max_bytes: int) -> list[Entry[C, R]]:
    """Remove the next batch from the queue: the oldest call, and later ones with an equal key.

    The batch ends before the first call with this key that exceeds a limit. A call that exceeds a
    limit alone runs alone. Calls past their deadline fail.
    """
    batch: list[Entry[C, R]] = []
    skipped: list[Entry[C, R]] = []
    num_tokens = num_bytes = 0
    now = time.monotonic()
    while queue:
        entry = queue.popleft()
        call = entry.call
        if entry.deadline <= now:
            entry.resolve(TimedOut())
            continue
        if batch and call.batch_key != batch[0].call.batch_key:
            skipped.append(entry)
            continue
        num_tokens += call.num_tokens
        num_bytes += call.num_bytes
        if batch and (num_tokens > max_tokens or num_bytes > max_bytes):
            skipped.append(entry)
            break
        batch.append(entry)
    queue.extendleft(reversed(skipped))
    return batch
