"""The gRPC server: its port, its limits and its methods."""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from service.access.certificates import Certificates
from service.access.gate import Gate
from service.lifecycle import LAST_REQUESTS_S, Lifecycle, Phase
from service.listening import cannot_listen
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc import health, reflection
from service.oip.grpc.core_server import CoreServer, Stream, Unary
from service.oip.grpc.credentials import dynamic_credentials
from service.oip.grpc.messages import METHODS
from service.oip.grpc.receive_monitor import ReceiveMonitor, ReceiveTimeouts
from service.oip.grpc.rpc import SendTimeout
from service.oip.grpc.rpc_handlers import RpcHandlers
from service.resident_memory import ResidentLimit
from service.settings import Settings

Methods = Mapping[str, Callable[..., Any]]
"""Functions that answer, by the method's name: `UnaryMethod` or `StreamMethod`."""

log = logging.getLogger("rope.grpc")

HEADER_BYTES = 2**20
"""Longest message without its tensors."""

MAX_MESSAGE_BYTES = 2**31 - 1

MAX_CONNECTIONS = 1024
"""Open connections, where the system allows enough open files."""

MAX_STREAMS = 1024
"""Most RPCs in progress on a connection. Clients delay further RPCs until one has ended."""

MIN_PING_INTERVAL_MS = 1000
MAX_PING_STRIKES = 200
"""Most pings that follow the ping before within MIN_PING_INTERVAL_MS, with no answer sent between
them. One more ends the connection. Some libraries ping every second."""

STREAM_IDLE_S = 600.0
"""Seconds without a request after which a stream ends."""

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
        limit: limit of the resident memory.
        gate: authenticates RPCs.
        certificates: certificates of the service; None: no TLS.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        methods: Methods,
        metrics: Metrics,
        limit: ResidentLimit,
        gate: Gate,
        certificates: Certificates | None = None,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._limit = limit
        self._certificates = certificates
        request_log = RequestLog(metrics, level=settings.log_level, quiet=QUIET)
        self._rpcs = RpcHandlers(request_log, gate)
        self._authorizer = self._rpcs if gate.needs_keys else None
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
        settings = self._settings
        timeouts = ReceiveTimeouts(
            settings.default_timeout_s, settings.max_timeout_s, STREAM_IDLE_S
        )
        monitor = ReceiveMonitor(self._limit, timeouts)
        send_timeout = SendTimeout(
            settings.write_stall_s, settings.min_body_rate, settings.max_timeout_s
        )
        server = CoreServer(
            _options(settings),
            self._authorizer,
            self._unary,
            self._streams,
            monitor,
            send_timeout,
        )
        try:
            _check_port(host, port)
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            certificates = self._certificates
            server.listen(address, certificates and dynamic_credentials(certificates))
        except OSError as refused:
            raise cannot_listen("ROPE_GRPC_PORT", host, port, refused) from None
        server.start()
        self._server = server
        self._measuring = asyncio.create_task(self._measure_idle())
        log.info(
            "gRPC listens",
            extra={"fields": {"host": host, "port": port, "tls": self._certificates is not None}},
        )

    async def _measure_idle(self) -> None:
        """Measure the memory of the idle process when the warm-up has ended."""
        async for phase in self._lifecycle.changes():
            if phase is Phase.READY:
                self._limit.set_idle()

    async def close(self, grace_s: float) -> None:
        """Stop listening. RPCs in progress have `grace_s` seconds to finish."""
        server, self._server = self._server, None
        if server is None:
            return
        self._measuring.cancel()
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
    max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        # above the first limit, some requests are refused at random
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", max(1, min(max_files // 8, MAX_CONNECTIONS))),
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.header_timeout_s)),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.keep_alive_s)),
        # detects vanished clients; clients may ping without an RPC as well
        ("grpc.keepalive_time_ms", _milliseconds(settings.keep_alive_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ]


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), 2**31 - 1)
