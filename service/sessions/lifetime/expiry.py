"""Expiry: one timer, at the next end of a lease."""

from asyncio import get_running_loop
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

from service.sessions.lifetime.session import Session

MIN_INTERVAL_S = 1.0
"""Shortest time between two wakes of the timer."""

MAX_STALE = 64
"""Outdated entries that the heap may have beyond the number of valid ones."""


class Timer(Protocol):
    """A timer of an event loop."""

    def cancel(self) -> None:
        """Do not call the function."""


CallLater = Callable[[float, Callable[[], None]], Timer]


def call_later(delay_s: float, function: Callable[[], None]) -> Timer:
    """Call a function later on the running event loop."""
    return get_running_loop().call_later(delay_s, function)


class ExpiryTimer:
    """Ends sessions whose lease is over. For the event loop's thread.

    A renewal does not change the heap: the lease is checked when the time of the entry has come. A
    session that is in use then gets an entry when it is idle again.

    Args:
        expire: ends a session.
        clock: monotonic seconds.
        call_later: sets a timer.
    """

    def __init__(
        self,
        expire: Callable[[Session], None],
        clock: Callable[[], float],
        call_later: CallLater = call_later,
    ) -> None:
        self._expire = expire
        self._clock = clock
        self._call_later = call_later
        self._heap: list[tuple[float, int, Session]] = []
        self._order = count()
        """Numbers of entries, so that equal times do not compare sessions."""
        self._times: dict[Session, float] = {}
        """Time of the valid entry of each session."""
        self._timer: Timer | None = None
        self._wakes_at = 0.0
        self._last_wake = -MIN_INTERVAL_S

    def watch(self, session: Session) -> None:
        """Watch a session: a new one, one that is idle again, or one with a shorter lease."""
        time = self._times.get(session)
        if time is None or session.lease.expires < time:
            self._push(session)
            self._arm()

    def forget(self, session: Session) -> None:
        """Forget a session that has ended."""
        self._times.pop(session, None)
        if len(self._heap) > 2 * len(self._times) + MAX_STALE:
            self._heap = [entry for entry in self._heap if self._is_valid(entry)]
            heapify(self._heap)

    def sweep(self) -> None:
        """End all sessions whose lease is over."""
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            entry = heappop(self._heap)
            if not self._is_valid(entry):
                continue
            session = entry[2]
            del self._times[session]
            if session.turns.is_busy:
                continue
            if session.lease.expires <= now:
                self._expire(session)
            else:
                self._push(session)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _push(self, session: Session) -> None:
        time = self._times[session] = session.lease.expires
        heappush(self._heap, (time, next(self._order), session))

    def _is_valid(self, entry: tuple[float, int, Session]) -> bool:
        return self._times.get(entry[2]) == entry[0]

    def _wake(self) -> None:
        self._timer = None
        self._last_wake = self._clock()
        self.sweep()
        self._arm()

    def _arm(self) -> None:
        """Set the timer to the earliest entry."""
        if not self._heap:
            return
        wakes_at = max(self._heap[0][0], self._last_wake + MIN_INTERVAL_S)
        if self._timer is not None:
            if self._wakes_at <= wakes_at:
                return
            self._timer.cancel()
        self._timer = self._call_later(max(0.0, wakes_at - self._clock()), self._wake)
        self._wakes_at = wakes_at
