"""Phases of the service, from warm-up to exit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import Enum


class Phase(Enum):
    """What `/readyz` says."""

    WARMING_UP = "warming up"
    READY = "ready"
    DRAINING = "draining"
    LOST = "device lost"
    STUCK = "device stuck"


LAST_REQUESTS_S = 0.3
"""For requests that are under way when the doors close."""

EXIT_CODES = {Phase.LOST: 70, Phase.STUCK: 71}
"""What the process exits with, where not with 0."""


class Lifecycle:
    """The phase of the service: warming up, then ready, then one of those that end it."""

    def __init__(self) -> None:
        self._phase = Phase.WARMING_UP
        self._closing = False
        self._changed = asyncio.Event()
        self.abort_pending: Callable[[], None] = lambda: None
        """Answers whoever still waits when the time to drain is over."""
        self.end: Callable[[], None] = lambda: None
        """Begins the drain."""

    @property
    def phase(self) -> Phase:
        """Where the service is."""
        return self._phase

    @property
    def ending(self) -> bool:
        """Whether the end has begun."""
        return self._phase not in (Phase.WARMING_UP, Phase.READY)

    @property
    def exit_code(self) -> int:
        """What the process is to exit with."""
        return EXIT_CODES.get(self._phase, 0)

    def warmed_up(self) -> None:
        """Welcome traffic, unless the end has begun."""
        if self._phase is Phase.WARMING_UP:
            self._turn(Phase.READY)

    def drain(self) -> None:
        """Tell load balancers to look elsewhere."""
        self._turn(Phase.DRAINING)

    def fail(self, phase: Phase) -> None:
        """End, as the device is lost or stuck; the first such word stays."""
        if self._phase in EXIT_CODES:
            return
        ending = self.ending
        self._turn(phase)
        if not ending:
            self.end()

    def close(self) -> None:
        """Tell who has a door open for long that no door stays open."""
        self._closing = True
        self._announce()

    async def changes(self) -> AsyncIterator[Phase]:
        """Yield the phase, and every other that follows, until the doors close."""
        shown = None
        while True:
            changed = self._changed  # before the look: what changes after it is announced here
            if self._phase is not shown:
                shown = self._phase
                yield shown
            elif self._closing:
                return
            else:
                await changed.wait()

    async def closing(self) -> None:
        """Return when the doors close."""
        async for _ in self.changes():
            pass

    def _turn(self, phase: Phase) -> None:
        self._phase = phase
        self._announce()

    def _announce(self) -> None:
        """Wake who waits. Called between two bytecodes, too: so the event loop is asked to."""
        changed, self._changed = self._changed, asyncio.Event()
        with suppress(RuntimeError):  # no event loop runs here, so nobody waits
            asyncio.get_running_loop().call_soon_threadsafe(changed.set)
