"""The worker process, seen from the service."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from service.errors import Overloaded, ShuttingDown
from service.wire import Message
from service.worker.frames import READY, Closed, receive_frame, send_frame

COMMAND = (sys.executable, "-m", "service.worker")

START_S = 60.0
"""Most time of a start. A quiet machine takes 2 s, one whose processors are busy several times
that."""


class WorkerProcess:
    """Runs requests in another process.

    `start`, `answer` and `stop` are for one thread at a time, `abandon` and `kill` for any thread.

    Args:
        lease: returns memory for an answer.
        presets_dir: folder with more presets; None: there is none.
        command: starts the worker; two descriptors and the folder are appended.
    """

    def __init__(
        self,
        lease: Callable[[int], memoryview],
        presets_dir: Path | None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._lease = lease
        self._arguments = [] if presets_dir is None else [str(presets_dir.absolute())]
        self._command = command
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._data: socket.socket | None = None
        self._control: socket.socket | None = None
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Identifier of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process unless it runs, and wait until it takes requests.

        Raises:
            Overloaded: the process cannot be started.
            ShuttingDown: it was killed for good.
        """
        if self._process is not None and self._process.poll() is not None:
            self.stop()  # it has ended without a request
        if self._data is not None:
            return
        data = self._launch()
        data.settimeout(START_S)
        with suppress(OSError):  # a timeout
            if data.recv(len(READY)) == READY:
                data.settimeout(None)
                return
        self.stop()
        raise Overloaded(
            f"the worker process ended at its start, or took longer than {START_S:.0f} s"
        )

    def answer(self, path: str, message: Message, number: int) -> tuple[dict[str, Any], Message]:
        """Return the fields and the message that answer a request. `start` comes before.

        Args:
            path: of the endpoint.
            message: of the request.
            number: of the request, greater than those before.

        Raises:
            Overloaded: the process has ended before its answer.
        """
        assert self._data is not None, "started"
        try:
            send_frame(self._data, {"path": path, "number": number}, message)
            return receive_frame(self._data, self._lease)
        except Closed:
            self.stop()
            text = "the worker process ended before its answer: it may have had too little memory"
            raise Overloaded(text) from None

    def abandon(self, number: int) -> None:
        """Stop the computation of a request, and of all before."""
        with self._lock, suppress(OSError):  # the process has ended
            if self._control is not None:
                self._control.send(number.to_bytes(8, "little"), socket.MSG_DONTWAIT)

    def kill(self, *, for_good: bool = False) -> None:
        """End the process; a request that it computes fails.

        Args:
            for_good: whether no other process may be started.
        """
        with self._lock:
            self._is_closed = self._is_closed or for_good
            if self._process is not None:
                self._process.kill()

    def stop(self) -> None:
        """End the process, if there is one; the next request starts another."""
        with self._lock:
            process, self._process = self._process, None
            for sock in (self._data, self._control):
                if sock is not None:
                    sock.close()
            self._data = self._control = None
        if process is not None:
            process.kill()
            process.wait()

    def _launch(self) -> socket.socket:
        """Start the process, and return the socket for requests."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with ExitStack() as ours, ExitStack() as its, self._lock:
            if self._is_closed:
                raise ShuttingDown
            pairs = socket.socketpair(), socket.socketpair()
            data, control = (ours.enter_context(ends[0]) for ends in pairs)
            descriptors = [its.enter_context(ends[1]).fileno() for ends in pairs]
            try:
                self._process = subprocess.Popen(
                    [*self._command, *map(str, descriptors), *self._arguments],
                    pass_fds=descriptors,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as failure:
                raise Overloaded(f"the worker process cannot be started: {failure}") from None
            self._data, self._control = data, control
            ours.pop_all()  # they stay open
        return data
