"""What all connections share: limits, deadlines, and how many connections there may be."""

import asyncio
import resource
from typing import NamedTuple, Protocol

from uvicorn.server import ServerState

from service.access.hosts import allowed_hosts
from service.asgi.request_header import HeaderLimits, RequestHeader, RequestHeaderCache
from service.batching.load_estimate import LoadEstimate
from service.server.connection_deadlines import Deadlines, Timeouts
from service.server.connection_pacer import ConnectionPacer
from service.settings import Settings

STATUS_CONNECTIONS = 16
"""Connections beyond the limit that are served the status of the service, and nothing else."""

MOST_CONNECTIONS = 4096
"""Default limit where the system allows enough open files."""


class UpgradedConnection(Protocol):
    """The connection of a WebSocket after its handshake."""

    def start(
        self,
        transport: asyncio.Transport,
        server_state: ServerState,
        limits: "ConnectionLimits",
        data: memoryview,
    ) -> None:
        """Become the protocol of the transport, and answer the handshake.

        Args:
            transport: of the connection.
            server_state: of uvicorn.
            limits: what all connections share.
            data: bytes that the client has sent after the handshake.
        """


class Upgrades(Protocol):
    """Opens WebSockets."""

    def route(self, header: RequestHeader) -> str | None:
        """Return the name of the route of a WebSocket; None: the request is for another route."""

    def open(self, header: RequestHeader) -> UpgradedConnection:
        """Return the connection that answers a handshake.

        Raises:
            ServiceError: the handshake is refused.
        """


class ConnectionLimits(NamedTuple):
    """What all connections share."""

    headers: RequestHeaderCache
    deadlines: Deadlines
    max_connections: int
    allowed_hosts: frozenset[bytes] | None
    """Names that Host may have over TCP; None: every name."""
    pacer: ConnectionPacer
    upgrades: Upgrades | None = None
    """Opens WebSockets; None: there are none."""


def connection_limits(settings: Settings, load: LoadEstimate) -> ConnectionLimits:
    """Return the limits that an operator has set.

    Args:
        settings: of the operator.
        load: outstanding work of the device.
    """
    timeouts = Timeouts(
        header_s=settings.header_timeout_s,
        body_s=settings.body_grace_s,
        min_body_rate=settings.min_body_rate,
        keep_alive_s=settings.keep_alive_s,
        write_stall_s=settings.write_stall_s,
    )
    header = HeaderLimits(
        max_bytes=settings.max_header_bytes,
        max_fields=settings.max_header_fields,
        max_target_bytes=settings.max_target_bytes,
    )
    max_connections = settings.max_connections or default_max_connections()
    pacer = ConnectionPacer(max_connections + STATUS_CONNECTIONS, load)
    return ConnectionLimits(
        RequestHeaderCache(header),
        Deadlines(timeouts),
        max_connections,
        allowed_hosts(settings.http_host, settings.allowed_hosts),
        pacer,
    )


def default_max_connections() -> int:
    """Return three quarters of the files that the process may open, at most MOST_CONNECTIONS.

    Without a free descriptor no connection is accepted, not even one that asks for the status.
    """
    num_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if num_files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(num_files * 3 // 4, MOST_CONNECTIONS))
