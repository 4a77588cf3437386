"""The gRPC server: its port, its limits and its methods."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from grpc import aio

from service.lifecycle import LAST_REQUESTS_S, Lifecycle
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc import health
from service.oip.grpc.health import health_handler
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.grpc.reflection import reflection_handlers
from service.oip.grpc.rpc_handlers import RpcHandlers
from service.settings import Settings

Methods = Mapping[str, Callable[..., Any]]
"""Functions that answer, by the method's name: `Unary` or `Stream` of `rpc_handlers`."""

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
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        methods: Methods,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._rpcs = RpcHandlers(RequestLog(metrics, logged=settings.logs_requests, quiet=QUIET))
        self._handlers = [
            grpc.method_handlers_generic_handler(SERVICE, _handlers(self._rpcs, methods)),
            health_handler(lifecycle, self._rpcs),
            *reflection_handlers(lifecycle, self._rpcs),
        ]
        self._server: aio.Server | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken or not allowed.
        """
        host, port = self._settings.http_host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            _check_port(host, port)
            server = aio.server(handlers=self._handlers, options=_options(self._settings))
            port = server.add_insecure_port(address)
        except (OSError, RuntimeError) as refused:
            raise OSError(f"gRPC cannot listen: {refused}") from None
        await server.start()
        self._server = server
        log.info("gRPC listens", extra={"fields": {"host": host, "port": port}})

    async def close(self, grace_s: float) -> None:
        """Stop listening. RPCs in progress have `grace_s` seconds to finish."""
        if self._server is None:
            return
        if grace_s:
            # A stopping server cancels RPCs that it has received but not begun, and their clients
            # cannot know that nothing was done for them. So begin them first, and refuse them.
            self._rpcs.refuse()
            await asyncio.sleep(LAST_REQUESTS_S)
        stopping = asyncio.create_task(self._server.stop(grace_s))
        idle = asyncio.create_task(self._rpcs.wait_until_idle())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        # Do not wait longer for peers that keep their connection open. Another `stop(0)` would
        # close these, but two stops at a time crash the process (grpcio 1.85).
        await asyncio.wait((stopping,), timeout=GOODBYE_S)
        stopping.cancel()


def _check_port(host: str, port: int) -> None:
    """Raise the OSError of a port that cannot be opened, because gRPC does not say the reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()


def _handlers(rpcs: RpcHandlers, methods: Methods) -> dict[str, grpc.RpcMethodHandler]:
    handlers = {}
    for name, method in methods.items():
        path = METHODS[name].path
        if METHODS[name].streams:
            handlers[name] = grpc.stream_stream_rpc_method_handler(rpcs.stream(path, method))
        else:
            handlers[name] = grpc.unary_unary_rpc_method_handler(rpcs.unary(path, method))
    return handlers


def _options(settings: Settings) -> list[tuple[str, int]]:
    max_bytes = min(settings.max_body_bytes + HEADER_BYTES, MAX_MESSAGE_BYTES)
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.max_ping_strikes", 0),  # no number of keepalive pings is too many
        ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ]
