"""The gRPC server: its port, its limits and its methods."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from service.access.certificates import HANDSHAKE_S, Certificates
from service.access.gate import Gate
from service.lifecycle import LAST_REQUESTS_S, Lifecycle
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc import health, reflection
from service.oip.grpc.core_server import CoreServer, Stream, Unary
from service.oip.grpc.credentials import dynamic_credentials
from service.oip.grpc.messages import METHODS
from service.oip.grpc.rpc_handlers import RpcHandlers
from service.settings import Settings

Methods = Mapping[str, Callable[..., Any]]
"""Functions that answer, by the method's name: `UnaryMethod` or `StreamMethod`."""

log = logging.getLogger("rope.grpc")

HEADER_BYTES = 2**20
"""Longest message without its tensors."""

MAX_MESSAGE_BYTES = 2**31 - 1

GOODBYE_S = 1.0
"""Time for peers to close their connections after the last RPC."""

QUIET = frozenset(
    (health.CHECK, health.WATCH, METHODS["ServerLive"].path, METHODS["ServerReady"].path)
)
"""Methods that probes call every few seconds: counted, not logged."""


class GrpcServer:
    """Listens for gRPC on a port.

    Args:
        settings: of the operator.
        lifecycle: its phases are the answers of the health service, and it ends open streams.
        methods: all that are implemented.
        metrics: counts RPCs.
        gate: admits RPCs; one that admits all of them if None.
        certificates: of TLS; None: there is no TLS.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        methods: Methods,
        metrics: Metrics,
        gate: Gate | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._settings = settings
        self._certificates = certificates
        request_log = RequestLog(metrics, logged=settings.logs_requests, quiet=QUIET)
        self._rpcs = RpcHandlers(request_log, gate)
        self._admission = self._rpcs if gate is not None and gate.needs_keys else None
        self._unary: dict[str, Unary] = {}
        self._streams: dict[str, Stream] = {}
        for name, method in methods.items():
            path = METHODS[name].path
            if METHODS[name].streams:
                self._streams[path] = self._rpcs.stream(path, method)
            else:
                self._unary[path] = self._rpcs.unary(path, method)
        self._unary[health.CHECK] = self._rpcs.unary(health.CHECK, health.check_method(lifecycle))
        streams = {health.WATCH: health.watch_method(lifecycle)}
        streams |= dict.fromkeys(reflection.PATHS, reflection.describe_method(lifecycle))
        for path, stream in streams.items():
            self._streams[path] = self._rpcs.stream(path, stream)
        self._server: CoreServer | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken or not allowed.
        """
        host, port = self._settings.http_host, self._settings.grpc_port
        server = CoreServer(_options(self._settings), self._admission, self._unary, self._streams)
        try:
            _check_port(host, port)
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            certificates = self._certificates
            server.listen(address, certificates and dynamic_credentials(certificates))
        except OSError as refused:
            raise OSError(f"gRPC cannot listen: {refused}") from None
        server.start()
        self._server = server
        log.info(
            "gRPC listens",
            extra={"fields": {"host": host, "port": port, "tls": self._certificates is not None}},
        )

    async def close(self, grace_s: float) -> None:
        """Stop listening. RPCs in progress have `grace_s` seconds to finish."""
        server, self._server = self._server, None
        if server is None:
            return
        if grace_s:
            # A stopping server cancels RPCs that it has received but not begun, and their clients
            # cannot know that nothing was done for them. So begin them first, and refuse them.
            self._rpcs.refuse()
            await asyncio.sleep(LAST_REQUESTS_S)
        server.stop()
        await _wait_for(self._rpcs.wait_until_idle(), grace_s)
        if grace_s and self._rpcs.is_idle:
            # Clients close their connections when the server announces its end.
            await _wait_for(server.wait_until_stopped(), GOODBYE_S)
        server.cancel_all()
        await _wait_for(server.wait_until_stopped(), GOODBYE_S)


async def _wait_for(work: Coroutine[Any, Any, None], limit_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work, limit_s)


def _check_port(host: str, port: int) -> None:
    """Raise the OSError of a port that cannot be opened, because gRPC does not say the reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()


def _options(settings: Settings) -> list[tuple[str, int]]:
    max_bytes = min(settings.max_body_bytes + HEADER_BYTES, MAX_MESSAGE_BYTES)
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.max_ping_strikes", 0),  # no number of keepalive pings is too many
        ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_S)),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ]
