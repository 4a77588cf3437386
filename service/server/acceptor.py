"""Accept connections at a limited pace; the others wait in the backlog of the kernel.

The servers of asyncio and uvloop cannot do this: they accept all pending connections at once.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from service.listening import cannot_listen
from service.server.connection_pacer import ConnectionPacer

log = logging.getLogger("rope.failures")

PER_TURN = 16
"""Most connections accepted in one iteration of the event loop. Their requests arrive before more
are accepted, so that these can wait in the backlog if the device is busy then."""

PER_PACED_TURN = 8
"""Most connections accepted at a time while accepting is paced."""

BACKLOG = 2048
"""Backlog of the kernel in normal operation: most connections that wait to be accepted."""

SHORT_BACKLOG = 256
"""Backlog of the kernel while accepting is paced, so that the last connection in the backlog does
not wait too long. `BACKLOG` is set again when no connection is pending."""

RETRY_S = 0.25
"""Seconds until the next attempt after an error: no descriptor is free, or the network of a pending
connection has failed."""


def bind(host: str, port: int, setting: str) -> list[socket.socket]:
    """Return a bound socket for each address of a host.

    Args:
        host: name or address.
        port: 0 lets the system choose.
        setting: variable of the port, for the error.

    Raises:
        OSError: as `cannot_listen`.
    """
    flags = socket.AI_PASSIVE
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as failure:
        raise cannot_listen(setting, host, port, failure) from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(addresses):
        listener = socket.socket(family, kind, protocol)
        sockets.append(listener)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
        except OSError as failure:
            for opened in sockets:
                opened.close()
            raise cannot_listen(setting, str(address[0]), port, failure) from None
    return sockets


class Acceptor:
    """Accepts connections on listening sockets.

    Has the methods of `asyncio.Server` that uvicorn calls.

    Args:
        sockets: bound sockets; the acceptor closes them.
        make_protocol: returns the protocol of a new connection.
        pacer: decides when connections are accepted.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.BaseProtocol],
        pacer: ConnectionPacer,
    ) -> None:
        self.sockets = tuple(sockets)
        self._make_protocol = make_protocol
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._awaits_tasks = False
        """Whether accepting is paused until all tasks have ended. A connection that is open counts
        twice until its task ends, so there may be room when all have ended."""
        self._backlog = 0
        self._is_closed = False
        for listener in self.sockets:
            listener.setblocking(False)
        self._set_backlog(BACKLOG)
        self._resume()

    def close(self) -> None:
        """Accept no more connections, and close the sockets."""
        if not self._is_closed:
            self._pause()
            self._is_closed = True
            for listener in self.sockets:
                listener.close()
            self.sockets = ()

    async def wait_closed(self) -> None:
        """Return at once: `close` leaves nothing to wait for."""

    def _resume(self) -> None:
        if not self._is_closed:
            for listener in self.sockets:
                self._loop.add_reader(listener, self._on_readable, listener)

    def _pause(self) -> None:
        for listener in self.sockets:
            self._loop.remove_reader(listener)

    def _on_readable(self, listener: socket.socket) -> None:
        """Accept pending connections; during overload, pause until a few may be accepted."""
        pacer = self._pacer
        if pacer.is_free:
            self._accept(listener, PER_TURN)
        else:
            self._set_backlog(SHORT_BACKLOG)
            self._pause()
            pacer.wait_to_accept(self._accept_few)

    def _accept_few(self) -> None:
        """Accept PER_PACED_TURN connections of each socket, and listen for more."""
        if not self._is_closed:
            self._resume()
            for listener in self.sockets:
                self._accept(listener, PER_PACED_TURN)

    def _accept(self, listener: socket.socket, max_connections: int) -> None:
        """Accept pending connections; pause at the limit of open connections or descriptors."""
        pacer = self._pacer
        for _ in range(max_connections):
            if pacer.is_full(len(self._tasks)):
                self._pause()
                self._awaits_tasks = bool(self._tasks)
                if not self._tasks:
                    pacer.wait_for_room(self._resume)
                return
            try:
                client, _ = listener.accept()
            except BlockingIOError:  # no connection is pending
                if pacer.is_free:
                    self._set_backlog(BACKLOG)
                return
            except (InterruptedError, ConnectionAbortedError):
                return
            except OSError as failure:
                log.warning("cannot accept a connection: %s", failure)
                self._pause()
                self._loop.call_later(RETRY_S, self._resume)
                return
            opening = self._loop.connect_accepted_socket(self._make_protocol, client)
            task = self._loop.create_task(opening)
            self._tasks.add(task)
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.debug("a connection could not be opened: %s", failure)
        if self._awaits_tasks and not self._tasks:
            self._awaits_tasks = False
            self._resume()

    def _set_backlog(self, backlog: int) -> None:
        if backlog != self._backlog:
            self._backlog = backlog
            for listener in self.sockets:
                listener.listen(backlog)
