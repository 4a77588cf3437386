"""Pings of a WebSocket, which closes if the client does not answer them."""

import asyncio
from typing import Protocol

from websockets.frames import CloseCode


class PingedConnection(Protocol):
    """A connection that sends pings."""

    @property
    def hears_pongs(self) -> bool:
        """Whether a pong would have been received by now."""

    def ping(self, payload: bytes) -> bool:
        """Send a ping; return whether it was sent."""

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close at once."""


class Pings:
    """Sends a ping every `interval_s` seconds, and closes if the last one has no answer by then.

    Args:
        connection: sends the pings.
        interval_s: seconds.
    """

    def __init__(self, connection: PingedConnection, interval_s: float) -> None:
        self._connection = connection
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._waits = False
        """Whether the last ping has no answer."""

    def start(self) -> None:
        """Start the first interval."""
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._end_interval)

    def stop(self) -> None:
        """Send no further ping."""
        if self._timer is not None:
            self._timer.cancel()

    def receive(self, payload: bytes) -> None:
        """Note a pong."""
        if payload == self._payload:
            self._waits = False

    @property
    def _payload(self) -> bytes:
        return self._number.to_bytes(4)

    def _end_interval(self) -> None:
        if self._waits and self._connection.hears_pongs:
            self._connection.fail(CloseCode.INTERNAL_ERROR, "no answer to a ping")
            return
        self._number += 1
        self._waits = self._connection.ping(self._payload)
        self.start()
