"""Pace what comes in while the service has more work than it can do in time.

To read and refuse a request takes time, which a flood of requests would take from those that are
accepted. So a client that was refused, and while much work waits a new connection, waits for its
turn. The rest of the flood waits in the kernel, where it costs nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from service.batching.load_estimate import LoadEstimate

PER_CALL = 2
"""How many come in for each call that ends: so refusals take a small share of the time."""

PER_FREE_RUN = 32
"""How many come in, at least, when a run ends and the device soon has no more work."""

TICK_S = 0.05
PER_TICK = 5
"""How many come in each TICK_S, even if no call ends."""

FREE_WORK_S = 0.1
"""While the device has no more work than this, new connections come in at once."""


class Intake:
    """Counts connections, and has the line of those that wait. No timer runs while nobody waits.

    Args:
        max_connections: how many may be open at a time.
        load: the work of the device; None: connections need no device.
    """

    def __init__(self, max_connections: int, load: LoadEstimate | None = None) -> None:
        self._max_connections = max_connections
        self._load = load
        self._num_open = 0
        self._line: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._when_room: list[Callable[[], None]] = []
        if load is not None:
            load.on_end = self.calls_ended

    @property
    def is_free(self) -> bool:
        """Whether the device has so little work that everybody may come in."""
        return self._load is None or self._load.work_s <= FREE_WORK_S

    def is_full(self, num_connecting: int) -> bool:
        """Return whether no more connections may be accepted.

        Args:
            num_connecting: connections that are accepted and not open yet.
        """
        return self._num_open + num_connecting >= self._max_connections

    def opened(self) -> None:
        """Count a connection."""
        self._num_open += 1

    def closed(self) -> None:
        """Count a connection no more, and call those that wait for room."""
        self._num_open -= 1
        waiting, self._when_room = self._when_room, []
        for accept in waiting:
            accept()

    def wait_for_room(self, accept: Callable[[], None]) -> None:
        """Call `accept` when a connection has closed."""
        self._when_room.append(accept)

    def wait_for_turn(self, enter: Callable[[], None]) -> None:
        """Call `enter` when a call has ended, or after those that have waited for longer."""
        self._line.append(enter)
        if self._timer is None:
            self._arm()

    def calls_ended(self, num_calls: int) -> None:
        """Let some come in: the device has ended a run."""
        if self._line:
            most = PER_CALL * num_calls
            loop = asyncio.get_running_loop()
            loop.call_soon(self._let_in, max(most, PER_FREE_RUN) if self.is_free else most)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for _ in range(min(PER_TICK, len(self._line))):
            self._line.popleft()()
        if self._line and self._timer is None:
            self._arm()

    def _let_in(self, most: int) -> None:
        """Let in those that came last: their clients still wait for an answer."""
        for _ in range(min(most, len(self._line))):
            self._line.pop()()
