"""Where the service is in its life, and the signals that end it."""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from enum import Enum
from types import FrameType
from typing import Protocol

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.listeners import accept_pending, stop_handshakes

log = logging.getLogger("rope.life")


LAST_REQUESTS_S = 0.3
"""For requests that are under way when the doors close."""


class Phase(Enum):
    """What `/readyz` says."""

    WARMING_UP = "warming up"
    READY = "ready"
    DRAINING = "draining"
    LOST = "device lost"
    STUCK = "device stuck"


EXIT_CODES = {Phase.LOST: 70, Phase.STUCK: 71}
"""What the process exits with, where not with 0."""


class Life:
    """The phase of the service: warming up, then ready, then one of those that end it."""

    def __init__(self) -> None:
        self._phase = Phase.WARMING_UP
        self._closing = False
        self._changed = asyncio.Event()
        self.give_up: Callable[[], None] = lambda: None
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


class Door(Protocol):
    """Where requests come in, beside HTTP."""

    async def open(self) -> None:
        """Let requests in.

        Raises:
            OSError: the port cannot be had.
        """

    async def close(self, patience_s: float) -> None:
        """Let no more in; those that are in have `patience_s` to finish."""


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM closes the door late: first /readyz says no, and requests still come in.

    uvicorn alone closes its listener at once, so what a load balancer sends until its next look at
    /readyz is refused. SIGINT (Ctrl-C) does not wait, and a second signal does not finish requests.

    Args:
        config: of uvicorn, to which the application's lifespan is no concern.
        life: told of the signals.
        needed: what all doors need, for as long as one is open.
        doors: those beside HTTP.
        delay_s: from SIGTERM to the closing of the doors.
        drain_s: from then on, for those who are in.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        life: Life,
        *,
        needed: AbstractAsyncContextManager[None],
        doors: Sequence[Door],
        delay_s: float,
        drain_s: float,
    ) -> None:
        # uvicorn cancels what is left when its own time is over: later than we give up
        config.timeout_graceful_shutdown = math.ceil(drain_s) + 2
        super().__init__(config)
        self._life = life
        self._needed = needed
        self._doors = doors
        self._closing: list[asyncio.Task[None]] = []
        self._delay_s = delay_s
        self._drain_s = drain_s
        life.end = lambda: self._drain(delay_s)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end."""
        async with self._needed:
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open all doors; HTTP's last, as /readyz is behind it."""
        try:
            for door in self._doors:
                await door.open()
        except OSError as refused:
            log.error("%s", refused)  # noqa: TRY400 - it says all
            raise SystemExit(STARTUP_FAILURE) from None
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all doors at the same time, and wait for who is in."""
        self._life.close()
        patience_s = self.config.timeout_graceful_shutdown or 0
        self._closing = [asyncio.create_task(door.close(patience_s)) for door in self._doors]
        if not self.force_exit:
            listeners = [listener for server in self.servers for listener in server.sockets]
            for listener in listeners:
                stop_handshakes(listener)
            # a connection without a request is closed by what follows: the request that is on its
            # way over it is answered first, and the connection closed by that answer
            await asyncio.sleep(LAST_REQUESTS_S)
            await accept_pending(listeners)
        await super().shutdown(sockets)
        if self._closing and not self.force_exit:
            await asyncio.wait(self._closing)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin or force the end. Called between two bytecodes of the main thread."""
        if self._life.ending:
            self.should_exit = self.force_exit = True
            asyncio.get_running_loop().call_soon_threadsafe(self._force)
            return
        self._life.drain()
        delay_s = self._delay_s if sig == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_soon_threadsafe(self._drain, delay_s)

    def _force(self) -> None:
        for door in self._closing:
            door.cancel()

    def _drain(self, delay_s: float) -> None:
        log.info("draining", extra={"fields": {"delay_s": delay_s, "drain_s": self._drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._stop)
        loop.call_later(delay_s + self._drain_s, self._life.give_up)

    def _stop(self) -> None:
        self.should_exit = True
