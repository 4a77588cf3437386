"""uvicorn with a graceful end: requests are still accepted for a while after SIGTERM."""

import asyncio
import logging
import math
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol, cast

import uvicorn

from service.exit_codes import NOT_LISTENING
from service.lifecycle import LAST_REQUESTS_S, Lifecycle
from service.server.acceptor import Acceptor, bind
from service.server.connection_draining import accept_pending, stop_handshakes
from service.server.connection_pacer import ConnectionPacer
from service.server.unix_socket import UnixSocket

log = logging.getLogger("rope.lifecycle")


class Listener(Protocol):
    """A server in addition to HTTP, for example gRPC."""

    async def open(self) -> None:
        """Accept requests.

        Raises:
            OSError: the port is not available.
        """

    async def close(self, timeout_s: float) -> None:
        """Accept no more requests; those in flight have `timeout_s` seconds to finish."""


class StatusPort(NamedTuple):
    """A second HTTP port, for health, readiness and metrics only."""

    port: int
    protocol: Callable[..., asyncio.BaseProtocol]
    """Makes the protocol of a connection, as `http_protocol_class` of uvicorn does."""
    pacer: ConnectionPacer


class Server(uvicorn.Server):
    """uvicorn, but SIGTERM first makes /readyz answer 503 and closes the listeners later.

    uvicorn alone closes its listener at once, so the requests that a load balancer sends until its
    next look at /readyz are refused. SIGINT (Ctrl-C) closes at once. A second signal cancels
    requests in flight.

    Args:
        config: uvicorn's; the lifespan protocol is off.
        lifecycle: enters its phases when signals arrive.
        pacer: decides when connections are accepted.
        lifespan: entered before the listeners open, left after they have closed.
        listeners: servers in addition to HTTP.
        unix_socket: path of a Unix-domain socket that takes HTTP as well; None: there is none.
        plain_protocol: makes the protocol of a connection to that socket; None: that of `config`.
        tls: TLS context of the protocol of `config`, for uvicorn's log line; None: no TLS.
        reload_files: called on SIGHUP.
        delay_s: seconds from SIGTERM until the listeners close.
        drain_s: seconds from then on for requests in flight.
        status_port: port for probes and Prometheus; None: there is none.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        *,
        pacer: ConnectionPacer,
        lifespan: AbstractAsyncContextManager[None],
        listeners: Sequence[Listener],
        delay_s: float,
        drain_s: float,
        unix_socket: Path | None = None,
        status_port: StatusPort | None = None,
        plain_protocol: Callable[..., asyncio.BaseProtocol] | None = None,
        tls: ssl.SSLContext | None = None,
        reload_files: Callable[[], None] = lambda: None,
    ) -> None:
        # uvicorn cancels requests when its own timeout ends: after abort_pending has answered them
        config.timeout_graceful_shutdown = math.ceil(drain_s) + 2
        super().__init__(config)
        self._lifecycle = lifecycle
        self._pacer = pacer
        self._status_port = status_port
        self._service_lifespan = lifespan
        self._listeners = listeners
        self._unix_path = unix_socket
        self._unix_socket: UnixSocket | None = None
        self._plain_protocol = plain_protocol or cast(Any, config.http_protocol_class)
        self._tls = tls
        self._reload_files = reload_files
        self._closing: list[asyncio.Task[None]] = []
        self._delay_s = delay_s
        self._drain_s = drain_s
        self.listening = asyncio.Event()
        """Set when all listeners are open."""
        lifecycle.begin_drain = lambda: self._drain(delay_s)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end."""
        try:
            async with self._service_lifespan:
                await super().serve(sockets)
        finally:
            if self._unix_socket is not None:
                self._unix_socket.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open all listeners; HTTP last, because /readyz is on it."""
        config, status = self.config, self._status_port
        try:
            if self._unix_path is not None:
                self._unix_socket = UnixSocket(self._unix_path)
            for listener in self._listeners:
                await listener.open()
            http_sockets = bind(config.host, config.port, "ROPE_HTTP_PORT")
            status_sockets = (
                [] if status is None else bind(config.host, status.port, "ROPE_STATUS_PORT")
            )
        except OSError as failure:
            log.error("%s", failure.strerror)  # noqa: TRY400 - the text says all
            raise SystemExit(NOT_LISTENING) from None
        await super().startup(sockets=[])  # opens no listener
        self._accept(http_sockets, config.http_protocol_class, self._pacer)
        if status is not None:
            self._accept(status_sockets, status.protocol, status.pacer)
        if self._unix_socket is not None:
            self._accept([self._unix_socket.socket], self._plain_protocol, self._pacer)
        if threading.current_thread() is threading.main_thread():  # others get no signals
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_files)
        self._log_started_message(http_sockets)
        self.listening.set()

    @property
    def http_port(self) -> int:
        """Port on which HTTP listens, known when `listening` is set."""
        return int(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all listeners at the same time, and wait for requests in flight."""
        self._lifecycle.close_streams()
        timeout_s = self.config.timeout_graceful_shutdown or 0
        self._closing = [
            asyncio.create_task(listener.close(timeout_s)) for listener in self._listeners
        ]
        if not self.force_exit:
            http_sockets = [listener for server in self.servers for listener in server.sockets]
            for listener in http_sockets:
                stop_handshakes(listener)
            self._pacer.stop_pacing()
            if self._unix_socket is not None:
                self._unix_socket.remove()
            # super().shutdown closes idle connections. A request that is on its way over one of
            # them arrives in this time; its answer then closes the connection.
            await asyncio.sleep(LAST_REQUESTS_S)
            await accept_pending(http_sockets)
        await super().shutdown(sockets)
        if self._closing and not self.force_exit:
            await asyncio.wait(self._closing)

    def _log_started_message(self, listeners: Sequence[socket.SocketType]) -> None:
        self.config.ssl = self._tls  # the protocol does TLS; uvicorn logs the scheme by this
        super()._log_started_message(listeners)

    def _accept(
        self,
        sockets: list[socket.socket],
        protocol: Callable[..., asyncio.BaseProtocol],
        pacer: ConnectionPacer,
    ) -> None:
        """Accept connections on bound sockets."""
        make_protocol = partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.servers.append(cast(Any, Acceptor(sockets, make_protocol, pacer)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin or force the end. Runs as a signal handler on the main thread."""
        if self._lifecycle.ending:
            self.should_exit = self.force_exit = True
            asyncio.get_running_loop().call_soon_threadsafe(self._cancel_closing)
            return
        self._lifecycle.drain()
        delay_s = self._delay_s if sig == signal.SIGTERM else 0.0
        asyncio.get_running_loop().call_soon_threadsafe(self._drain, delay_s)

    def _cancel_closing(self) -> None:
        for task in self._closing:
            task.cancel()

    def _drain(self, delay_s: float) -> None:
        log.info("draining", extra={"fields": {"delay_s": delay_s, "drain_s": self._drain_s}})
        self._lifecycle.drain_ends = time.monotonic() + delay_s + self._drain_s
        loop = asyncio.get_running_loop()
        loop.call_later(delay_s, self._exit)
        loop.call_later(delay_s + self._drain_s, self._lifecycle.abort_pending)

    def _exit(self) -> None:
        self.should_exit = True
