"""Limit the memory and the time of messages that the core of grpcio is receiving.

The core reports neither the length of a message nor its received bytes before the message is
complete, so a message cannot be charged before it is received. Instead, the resident memory of the
process is measured while messages are being received. Above the limit the RPCs that began last are
refused, and the core frees the received part of their messages.
"""

import time
from collections.abc import Callable
from threading import Condition
from typing import NamedTuple

from service.errors import Overloaded, ServiceError, TimedOut
from service.oip.grpc.rpc import Rpc
from service.resident_memory import ResidentLimit

OVERDUE_S = 0.02
"""Seconds after which a message may be large: only such messages are checked."""

MAX_INTERVAL_S = 0.2
"""Longest time between two measurements, in seconds."""

TRIM_AFTER_S = 1.0
"""Seconds from the last message that may be large until free memory returns to the system. The core
receives in pieces of all sizes, and the allocator would keep their memory."""

MAX_BYTES_PER_S = 4 * 2**30
"""Highest rate at which the thread of the core can receive."""

MESSAGE_COPIES = 2
"""Copies that grpcio makes of a message when it is complete, one message at a time."""

Finish = Callable[[ServiceError], None]
"""Ends a refused RPC; called on the event loop."""


class Refused(NamedTuple):
    """An RPC to refuse."""

    rpc: Rpc
    finish: Finish
    failure: ServiceError


class ReceiveTimeouts(NamedTuple):
    """Longest time to receive a message from a connected client, in seconds."""

    default: float
    """The request of an RPC without a deadline."""
    longest: float
    """The request of an RPC with a deadline."""
    stream: float
    """The next request of a stream."""


class ReceiveMonitor:
    """The RPCs that wait for a message.

    Call `wait` and `check` on one thread only; the other methods are thread-safe. Do not use the
    thread that polls the core: while sockets have bytes, a poll may go on for half a second.

    Args:
        limit: limit of the resident memory.
        timeouts: timeouts of the messages.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        limit: ResidentLimit,
        timeouts: ReceiveTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._timeouts = timeouts
        self._clock = clock
        self._next_check = 0.0
        self._trim_at: float | None = None
        self._rpcs: dict[Rpc, Finish] = {}
        self._changed = Condition()
        self._is_idle = False
        """Whether `wait` may wait although an RPC has been added."""
        self._has_stopped = False

    def add(self, rpc: Rpc, finish: Finish) -> None:
        """Start to watch an RPC; `finish` ends the RPC if `check` refuses the RPC."""
        self._rpcs[rpc] = finish
        if self._is_idle:
            with self._changed:
                self._changed.notify()

    def remove(self, rpc: Rpc) -> bool:
        """Stop watching an RPC; return False if the RPC was refused."""
        return self._rpcs.pop(rpc, None) is not None

    def stop(self) -> None:
        """Let `wait` return False."""
        with self._changed:
            self._has_stopped = True
            self._changed.notify()

    def wait(self) -> bool:
        """Wait until a check may be due; return False after `stop`."""
        with self._changed:
            self._is_idle = True  # first: an RPC that `seconds_to_check` misses ends the wait
            seconds = self.seconds_to_check()
            self._is_idle = not self._rpcs
            if not self._has_stopped:
                self._changed.wait(seconds)
            self._is_idle = False
            return not self._has_stopped

    def seconds_to_check(self) -> float | None:
        """Return the seconds until the next check; None: until an RPC is added."""
        next_check = self._next_check
        if not self._rpcs:
            if self._trim_at is None:
                return None
            next_check = max(next_check, self._trim_at)
        return max(0.0, next_check - self._clock())

    def check(self) -> list[Refused]:
        """Return the RPCs to refuse now, and stop watching them."""
        now = self._clock()
        if now < self._next_check:
            return []
        overdue = [
            (rpc, waited_s)
            for rpc in [*self._rpcs]
            if (since := rpc.receiving_since) is not None and (waited_s := now - since) > OVERDUE_S
        ]
        self._next_check = now + OVERDUE_S
        refused: list[tuple[Rpc, ServiceError]] = [
            (rpc, TimedOut()) for rpc, waited_s in overdue if waited_s > self._timeout_s(rpc)
        ]
        if any(not rpc.is_stream for rpc, _ in overdue):
            self._trim_at = now + TRIM_AFTER_S
        elif self._trim_at is not None and now >= self._trim_at:
            self._trim_at = None
            self._limit.trim()
        if overdue:
            bytes_left = self._bytes_left(len(overdue))
            if bytes_left < 0:
                self._limit.trim()
                bytes_left = self._bytes_left(len(overdue))
            self._next_check = now + min(
                max(OVERDUE_S, bytes_left / MAX_BYTES_PER_S), MAX_INTERVAL_S
            )
            if bytes_left < 0:  # a single RPC is never refused, as a single HTTP request
                text = "messages that are being received take too much memory"
                num_kept = (len(overdue) + 3) // 4
                refused += [(rpc, Overloaded(text)) for rpc, _ in overdue[num_kept:]]
        return [
            Refused(rpc, finish, failure)
            for rpc, failure in refused
            if (finish := self._rpcs.pop(rpc, None)) is not None
        ]

    def _bytes_left(self, num_messages: int) -> int:
        """Return the bytes left, without those for the copies of one message."""
        limit = self._limit
        copied_bytes = MESSAGE_COPIES * max(0, limit.used_bytes()) // num_messages
        return limit.bytes_left() - copied_bytes

    def _timeout_s(self, rpc: Rpc) -> float:
        if rpc.is_stream:
            return self._timeouts.stream
        has_deadline = rpc.time_remaining() is not None
        return self._timeouts.longest if has_deadline else self._timeouts.default
