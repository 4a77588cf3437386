"""Pace what comes in while the service has more work than it can do in time.

To read and refuse a request takes time, which a flood of requests would take from those that are
accepted. So a client that was refused, and while much work waits a new connection, waits for its
turn. The rest of the flood waits in the kernel, where it costs nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from service.batching.load_estimate import LoadEstimate

TICK_S = 0.01
PER_TICK = 10
"""How many come in each TICK_S."""

FREE_WORK_S = 0.1
"""While the device has no more work than this, new connections come in at once."""


class Intake:
    """The line of those that wait to come in. No timer runs while nobody waits.

    Args:
        load: the work of the device.
    """

    def __init__(self, load: LoadEstimate) -> None:
        self._load = load
        self._line: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Whether the device has so little work that everybody may come in."""
        return self._load.work_s <= FREE_WORK_S

    def wait(self, enter: Callable[[], None]) -> None:
        """Call `enter` when it is its turn."""
        self._line.append(enter)
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._let_in)

    def _let_in(self) -> None:
        self._timer = None
        for _ in range(min(PER_TICK, len(self._line))):
            self._line.popleft()()
        if self._line and self._timer is None:
            self._arm()
