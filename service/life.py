"""Where the service is in its life, and the signals that end it."""

import asyncio
import logging
import math
import signal
from collections.abc import Callable
from enum import Enum
from types import FrameType

import uvicorn

log = logging.getLogger("rope.life")


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
        self.phase = Phase.WARMING_UP
        self.give_up: Callable[[], None] = lambda: None
        """Answers whoever still waits when the time to drain is over."""
        self.end: Callable[[], None] = lambda: None
        """Begins the drain."""

    @property
    def ending(self) -> bool:
        """Whether the end has begun."""
        return self.phase not in (Phase.WARMING_UP, Phase.READY)

    @property
    def exit_code(self) -> int:
        """What the process is to exit with."""
        return EXIT_CODES.get(self.phase, 0)

    def warmed_up(self) -> None:
        """Welcome traffic, unless the end has begun."""
        if self.phase is Phase.WARMING_UP:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Tell load balancers to look elsewhere."""
        self.phase = Phase.DRAINING

    def fail(self, phase: Phase) -> None:
        """End, as the device is lost or stuck; the first such word stays."""
        if self.phase in EXIT_CODES:
            return
        ending, self.phase = self.ending, phase
        if not ending:
            self.end()


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM closes the door late: first /readyz says no, and requests still come in.

    uvicorn alone closes its listener at once, so what a load balancer sends until its next look at
    /readyz is refused. SIGINT (Ctrl-C) does not wait, and a second signal does not finish requests.
    """

    def __init__(self, config: uvicorn.Config, life: Life, delay_s: float, drain_s: float) -> None:
        # uvicorn cancels what is left when its own time is over: later than we give up
        config.timeout_graceful_shutdown = math.ceil(drain_s) + 2
        super().__init__(config)
        self._life = life
        self._delay_s = delay_s
        self._drain_s = drain_s
        life.end = lambda: self._drain(delay_s)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin or force the end. Called between two bytecodes of the main thread."""
        if self._life.ending:
            self.should_exit = self.force_exit = True
            return
        self._life.drain()
        delay_s = self._delay_s if sig == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_soon_threadsafe(self._drain, delay_s)

    def _drain(self, delay_s: float) -> None:
        log.info("draining", extra={"fields": {"delay_s": delay_s, "drain_s": self._drain_s}})
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._stop)
        loop.call_later(delay_s + self._drain_s, self._life.give_up)

    def _stop(self) -> None:
        self.should_exit = True
