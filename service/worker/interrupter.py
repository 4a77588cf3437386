"""Stops a computation in the worker that nobody waits for."""

import _thread
import os
import signal
import socket
from threading import Thread
from types import FrameType


class Abandoned(BaseException):
    """Nobody waits for the answer. Not an Exception, so that no computation handles it."""


class Interrupter:
    """Stops the computation of abandoned requests.

    Args:
        control: socket that receives the numbers of abandoned requests, 8 bytes each.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._abandoned = 0
        self._computing = 0
        signal.signal(signal.SIGUSR1, self._stop)  # raised by `_watch` only
        Thread(target=self._watch, daemon=True).start()

    def begin(self, number: int) -> None:
        """Begin the computation of a request.

        Raises:
            Abandoned: now, or at any time until the end of `end`.
        """
        self._computing = number
        if self._abandoned >= number:
            raise Abandoned

    def end(self) -> None:
        """End the computation."""
        self._computing = 0

    def _watch(self) -> None:
        while number := self._control.recv(8, socket.MSG_WAITALL):
            self._abandoned = int.from_bytes(number, "little")
            _thread.interrupt_main(signal.SIGUSR1)
        os._exit(0)  # the service has ended

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if 0 < self._computing <= self._abandoned:
            self._computing = 0
            raise Abandoned
