"""uvicorn, whose end begins at the signal and closes the listeners later."""

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Protocol

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.lifecycle import LAST_REQUESTS_S, Lifecycle
from service.server.listeners import accept_pending, stop_handshakes

log = logging.getLogger("rope.life")


class Listener(Protocol):
    """Where requests come in, beside HTTP."""

    async def open(self) -> None:
        """Let requests in.

        Raises:
            OSError: the port cannot be had.
        """

    async def close(self, watchdog_timeout_s: float) -> None:
        """Let no more in; those that are in have `patience_s` to finish."""


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM closes the door late: first /readyz says no, and requests still come in.

    uvicorn alone closes its listener at once, so what a load balancer sends until its next look at
    /readyz is refused. SIGINT (Ctrl-C) does not wait, and a second signal does not finish requests.

    Args:
        config: of uvicorn, to which the application's lifespan is no concern.
        lifecycle: told of the signals.
        needed: what all doors need, for as long as one is open.
        doors: those beside HTTP.
        delay_s: from SIGTERM to the closing of the doors.
        drain_s: from then on, for those who are in.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        *,
        needed: AbstractAsyncContextManager[None],
        doors: Sequence[Listener],
        delay_s: float,
        drain_s: float,
    ) -> None:
        # uvicorn cancels what is left when its own time is over: later than we give up
        config.timeout_graceful_shutdown = math.ceil(drain_s) + 2
        super().__init__(config)
        self._lifecycle = lifecycle
        self._needed = needed
        self._doors = doors
        self._closing: list[asyncio.Task[None]] = []
        self._delay_s = delay_s
        self._drain_s = drain_s
        lifecycle.end = lambda: self._drain(delay_s)

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
        self._lifecycle.close()
        watchdog_timeout_s = self.config.timeout_graceful_shutdown or 0
        self._closing = [
            asyncio.create_task(door.close(watchdog_timeout_s)) for door in self._doors
        ]
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
        if self._lifecycle.ending:
            self.should_exit = self.force_exit = True
            asyncio.get_running_loop().call_soon_threadsafe(self._force)
            return
        self._lifecycle.drain()
        delay_s = self._delay_s if sig == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_soon_threadsafe(self._drain, delay_s)

    def _force(self) -> None:
        for door in self._closing:
            door.cancel()

    def _drain(self, delay_s: float) -> None:
        log.info("draining", extra={"fields": {"delay_s": delay_s, "drain_s": self._drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._stop)
        loop.call_later(delay_s + self._drain_s, self._lifecycle.abort_pending)

    def _stop(self) -> None:
        self.should_exit = True
