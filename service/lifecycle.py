"""Phases of the service, from warm-up to exit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import Enum

from service.exit_codes import DEVICE_LOST, DEVICE_STUCK


class Phase(Enum):
    """What `/readyz` shows."""

    WARMING_UP = "warming up"
    READY = "ready"
    DRAINING = "draining"
    LOST = "device lost"
    STUCK = "device stuck"


EXIT_CODES = {Phase.LOST: DEVICE_LOST, Phase.STUCK: DEVICE_STUCK}
"""Exit codes of the process; 0 for all other phases."""

LAST_REQUESTS_S = 0.3
"""Seconds for requests that are on their way when the listeners close."""


class Lifecycle:
    """The phase of the service: warming up, then ready, then one of the phases that end it."""

    def __init__(self) -> None:
        self.phase = Phase.WARMING_UP
        self.ending = False
        """Whether the end has begun."""
        self.drain_ends: float | None = None
        """Time of `time.monotonic` at which calls that still wait are answered; None: not yet."""
        self._listeners_closing = False
        self._changed = asyncio.Event()
        self.abort_pending: Callable[[], None] = lambda: None
        """Answers all calls that still wait when the time to drain is over."""
        self.begin_drain: Callable[[], None] = lambda: None
        """Begins the drain; called when the device fails."""

    @property
    def exit_code(self) -> int:
        """Exit code of the process, if it ended now."""
        return EXIT_CODES.get(self.phase, 0)

    def warmed_up(self) -> None:
        """Become ready, unless the end has begun."""
        if self.phase is Phase.WARMING_UP:
            self._enter(Phase.READY)

    def drain(self) -> None:
        """Become unready, so that load balancers send requests to other replicas."""
        self._enter(Phase.DRAINING)

    def fail(self, phase: Phase) -> None:
        """End because the device is lost or stuck. The first failure counts."""
        if self.phase in EXIT_CODES:
            return
        ending = self.ending
        self._enter(phase)
        if not ending:
            self.begin_drain()

    def close_streams(self) -> None:
        """Wake long-lived streams: the listeners are closing."""
        self._listeners_closing = True
        self._notify()

    async def changes(self) -> AsyncIterator[Phase]:
        """Yield the current phase and each later one, until the listeners close."""
        shown = None
        while True:
            changed = self._changed  # read before the phase, so that no later change is missed
            if self.phase is not shown:
                shown = self.phase
                yield shown
            elif self._listeners_closing:
                return
            else:
                await changed.wait()

    async def wait_for_closing(self) -> None:
        """Return when the listeners close."""
        async for _ in self.changes():
            pass

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.ending = phase is not Phase.READY
        self._notify()

    def _notify(self) -> None:
        """Wake the waiting tasks. A signal handler may call this, so the loop sets the event."""
        changed, self._changed = self._changed, asyncio.Event()
        with suppress(RuntimeError):  # no event loop runs here, so no task waits
            asyncio.get_running_loop().call_soon_threadsafe(changed.set)
