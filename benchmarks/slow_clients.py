"""Clients that send or read very slowly, in a thread of this process."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from threading import Event, Thread

READ_BUFFER_BYTES = 1 << 16
"""Receive buffer of a client's socket: further bytes wait in the server."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Behaviour of a client: sends `start` at once, then one byte per interval."""

    start: bytes
    drip: bytes = b""
    """Bytes that are sent one per interval, repeated without end."""

    read_bytes: int = 1 << 16
    """Most bytes read per interval."""


@dataclass(slots=True)
class _Client:
    pace: Pace
    opened: float
    socket: socket.socket
    unsent: bytes
    dripping: Iterator[int]


@dataclass(slots=True)
class SlowClients:
    """A client for each pace."""

    port: int
    paces: Sequence[Pace]
    interval_s: float
    reconnects: bool
    """Whether a client connects again after the server has closed its connection."""

    lifetimes_s: list[float] = field(default_factory=list)
    """Lifetimes of all connections; the last ones are those open at the end."""

    num_cut: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clients until the end of the context."""
        stop = Event()
        thread = Thread(target=self._run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: Event) -> None:
        clients = [self._open(pace) for pace in self.paces]
        while not stop.wait(self.interval_s):
            for i, client in enumerate(clients):
                if client and not _move(client):
                    self._close(client)
                    self.num_cut += 1
                    clients[i] = client = None
                if not client and self.reconnects:
                    clients[i] = self._open(self.paces[i])
        for client in filter(None, clients):
            self._close(client)

    def _open(self, pace: Pace) -> _Client | None:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BUFFER_BYTES)
        connection.settimeout(0.2)
        try:
            connection.connect(("127.0.0.1", self.port))
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        return _Client(pace, time.monotonic(), connection, pace.start, cycle(pace.drip))

    def _close(self, client: _Client) -> None:
        client.socket.close()
        self.lifetimes_s.append(time.monotonic() - client.opened)


def _move(client: _Client) -> bool:
    """Send and read what is due; return whether the connection is still open."""
    try:
        with suppress(BlockingIOError):
            if not client.unsent and client.pace.drip:
                client.unsent = bytes([next(client.dripping)])
            if client.unsent:
                client.unsent = client.unsent[client.socket.send(client.unsent) :]
        with suppress(BlockingIOError):
            return bool(client.socket.recv(client.pace.read_bytes))
    except OSError:
        return False
    return True
