"""Where the service is in its life, and the signals that end it."""

import asyncio
import logging
import signal
from enum import Enum
from types import FrameType

import uvicorn

log = logging.getLogger("rope.life")


class Phase(Enum):
    """What `/readyz` says."""

    WARMING_UP = "warming up"
    READY = "ready"
    DRAINING = "draining"


class Life:
    """The phase of the service: warming up, then ready, then draining."""

    def __init__(self) -> None:
        self.phase = Phase.WARMING_UP

    def warmed_up(self) -> None:
        """Welcome traffic, unless the end has begun."""
        if self.phase is Phase.WARMING_UP:
            self.phase = Phase.READY

    def drain(self) -> None:
        """Tell load balancers to look elsewhere."""
        self.phase = Phase.DRAINING


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM closes the door late: first /readyz says no, and requests still come in.

    uvicorn alone closes its listener at once, so what a load balancer sends until its next look at
    /readyz is refused. SIGINT (Ctrl-C) does not wait, and a second signal does not finish requests.
    """

    def __init__(self, config: uvicorn.Config, life: Life, drain_delay_s: float) -> None:
        super().__init__(config)
        self._life = life
        self._drain_delay_s = drain_delay_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin or force the end. Called between two bytecodes of the main thread."""
        if self._life.phase is Phase.DRAINING:
            self.should_exit = self.force_exit = True
            return
        self._life.drain()
        delay_s = self._drain_delay_s if sig == signal.SIGTERM else 0.0
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, delay_s, self._stop)

    def _stop(self) -> None:
        log.info("draining: no new connections")
        self.should_exit = True
