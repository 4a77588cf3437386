"""Pace new connections and refused clients during overload (backpressure).

To read and refuse a request takes time that accepted requests need. So a refused client, and during
overload the accepting of new connections, wait in one queue. When the device has little work left,
the newest waiters are released; a timer releases the oldest ones. Bytes and connections that wait
stay in the kernel.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from service.batching.load_estimate import LoadEstimate

PER_RUN = 32
"""Requests of the newest waiters that are released when a run ends and little work is left."""

TICK_S = 0.05
PER_TICK = 5
"""Requests of the oldest waiters that are released every TICK_S seconds."""

FREE_WORK_S = 0.05
"""While the outstanding work of the device is at most this, in seconds, accepting is not paced."""


class Intake:
    """Counts open connections, and paces the waiters. No timer runs while the wait queue is empty.

    Args:
        max_connections: most open connections.
        load: outstanding work of the device; None: accepting is never paced.
    """

    def __init__(self, max_connections: int, load: LoadEstimate | None = None) -> None:
        self._max_connections = max_connections
        self._load = load
        self._num_open = 0
        self._wait_queue: deque[Callable[[], bool]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._room_callbacks: list[Callable[[], None]] = []
        if load is not None:
            load.on_end = self.calls_ended

    @property
    def is_free(self) -> bool:
        """Whether the device has so little work that accepting is not paced."""
        return self._load is None or self._load.work_s <= FREE_WORK_S

    def is_full(self, num_connecting: int) -> bool:
        """Return whether the limit of open connections is reached.

        Args:
            num_connecting: connections that are accepted but not counted yet.
        """
        return self._num_open + num_connecting >= self._max_connections

    def opened(self) -> None:
        """Count an open connection."""
        self._num_open += 1

    def closed(self) -> None:
        """Stop counting a connection, and run the callbacks of `wait_for_room`."""
        self._num_open -= 1
        callbacks, self._room_callbacks = self._room_callbacks, []
        for accept in callbacks:
            accept()

    def wait_for_room(self, accept: Callable[[], None]) -> None:
        """Call `accept` once, when a connection has closed."""
        self._room_callbacks.append(accept)

    def wait_for_turn(self, resume: Callable[[], bool]) -> None:
        """Append a waiter to the wait queue.

        Args:
            resume: called when the waiter is released; returns whether a request waits there.
        """
        self._wait_queue.append(resume)
        if self._timer is None:
            self._arm()

    def calls_ended(self, _num_calls: int) -> None:
        """Release waiters if little work is left: a run has ended."""
        if self._wait_queue and self.is_free:
            asyncio.get_running_loop().call_soon(self._release)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Release the oldest waiters."""
        self._timer = None
        num_requests = 0
        while self._wait_queue and num_requests < PER_TICK:
            num_requests += self._wait_queue.popleft()()
        if self._wait_queue and self._timer is None:
            self._arm()

    def _release(self) -> None:
        """Release the newest waiters: their clients most likely still wait for an answer."""
        num_requests = 0
        while self._wait_queue and num_requests < PER_RUN:
            num_requests += self._wait_queue.pop()()
