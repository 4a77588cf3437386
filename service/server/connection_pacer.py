"""Pace new connections and refused clients during overload (backpressure).

To read and refuse a request takes time that accepted requests need. So during overload few
connections are accepted, and a refused client is not read again at once. Bytes and connections that
wait stay in the kernel. When the device has little work left, connections are accepted and the
clients refused last are read; a timer accepts a few connections and reads the clients that have
waited for HOLD_S.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from service.batching.load_estimate import LoadEstimate

PER_RUN = 32
"""Requests of refused clients that are read when a run ends and little work is left."""

HOLD_S = 1.0
"""Seconds after which a refused client is read again while the device is busy. `Retry-After` asks
clients to wait for a second at least."""

TICK_S = 0.05
PER_TICK = 10
"""Requests of clients that have waited for HOLD_S which are read every TICK_S seconds."""

FREE_WORK_S = 0.03
"""While the outstanding work of the device is at most this, in seconds, accepting is not paced."""


class ConnectionPacer:
    """Counts open connections, and paces clients. No timer runs while nothing waits.

    Args:
        max_connections: most open connections.
        load: outstanding work of the device; None: accepting is never paced.
    """

    def __init__(self, max_connections: int, load: LoadEstimate | None = None) -> None:
        self._max_connections = max_connections
        self._load = load
        self._num_open = 0
        self._refused: deque[tuple[float, Callable[[], bool]]] = deque()
        """Refused clients: the time at which the hold ends, and the function that reads on."""
        self._acceptors: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._room_callbacks: list[Callable[[], None]] = []
        if load is not None:
            load.on_end = self.run_ended

    @property
    def is_free(self) -> bool:
        """Whether the device has so little work that accepting is not paced."""
        load = self._load
        return load is None or self._is_ending or load.outstanding_s <= FREE_WORK_S

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

    def hold(self, resume: Callable[[], bool]) -> None:
        """Hold a refused client.

        Args:
            resume: reads on; returns whether a request of the client waits.
        """
        self._refused.append((time.monotonic() + HOLD_S, resume))
        self._start_timer()

    def wait_to_accept(self, accept: Callable[[], None]) -> None:
        """Call `accept` once, when a few connections may be accepted."""
        self._acceptors.append(accept)
        self._start_timer()

    def stop_pacing(self) -> None:
        """Accept all connections from now on: the service ends, and closes its listeners."""
        self._is_ending = True
        self._accept()

    def run_ended(self) -> None:
        """Accept and read more if little work is left after a run."""
        if (self._refused or self._acceptors) and self.is_free:
            asyncio.get_running_loop().call_soon(self._fill)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Accept a few connections, and read the clients whose hold is over."""
        self._timer = None
        self._accept()
        num_requests, now = 0, time.monotonic()
        while self._refused and self._refused[0][0] <= now and num_requests < PER_TICK:
            num_requests += self._refused.popleft()[1]()
        if self._refused or self._acceptors:
            self._start_timer()

    def _fill(self) -> None:
        """Give the device work. The clients refused last most likely still wait for an answer."""
        self._accept()
        num_requests = 0
        while self._refused and num_requests < PER_RUN:
            num_requests += self._refused.pop()[1]()

    def _accept(self) -> None:
        acceptors, self._acceptors = self._acceptors, []
        for accept in acceptors:
            accept()
