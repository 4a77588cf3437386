"""The server of gRPC: its port, its limits, and who answers which method."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

from grpc import RpcMethodHandler, aio, method_handlers_generic_handler

from service.lifecycle import LAST_REQUESTS_S, Lifecycle
from service.observability.metrics import Metrics
from service.observability.request_log import RequestLog
from service.oip.grpc import health
from service.oip.grpc.rpc_handlers import Calls
from service.oip.grpc.health import Health
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.grpc.reflection import Reflection
from service.settings import Settings

Methods = Mapping[str, Callable[..., Any]]
"""What answers, by the method's name: a `Unary` of `service.oip.grpc.rpc_handlers`, or a `Stream`."""

log = logging.getLogger("rope.grpc")

AROUND_BYTES = 2**20
"""Of a message, for all that is not tensors."""

MOST_BYTES = 2**31 - 1


GOODBYE_S = 1.0
"""For peers to close their connections once no call is left."""

QUIET = frozenset(
    (health.CHECK, health.WATCH, METHODS["ServerLive"].path, METHODS["ServerReady"].path)
)
"""Methods asked by machines every few seconds."""


class GrpcDoor:
    """gRPC on a port.

    Args:
        settings: what the operator wants.
        lifecycle: told by the health service; ends streams that would wait for ever.
        methods: those that are implemented.
        metrics: where calls are counted.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        methods: Methods,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._calls = Calls(RequestLog(metrics, logged=settings.logs_requests, quiet=QUIET))
        self._handlers = [
            method_handlers_generic_handler(SERVICE, _handlers(self._calls, methods)),
            Health(lifecycle).handler(self._calls),
            *Reflection(lifecycle).handlers(self._calls),
        ]
        self._server: aio.Server | None = None

    async def open(self) -> None:
        """Let calls in.

        Raises:
            OSError: the port cannot be had.
        """
        host, port = self._settings.http_host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            _try(host, port)
            server = aio.server(handlers=self._handlers, options=_options(self._settings))
            port = server.add_insecure_port(address)
        except (OSError, RuntimeError) as refused:
            raise OSError(f"gRPC cannot listen: {refused}") from None
        await server.start()
        self._server = server
        log.info("gRPC listens", extra={"fields": {"host": host, "port": port}})

    async def close(self, watchdog_timeout_s: float) -> None:
        """Let no more calls in; those that are in have `patience_s` to finish."""
        if self._server is None:
            return
        if watchdog_timeout_s:
            # a stopping server cancels calls that it has not taken up yet, and a client cannot know
            # that nothing was done for them: they are taken up first, to be told
            self._calls.refuse()
            await asyncio.sleep(LAST_REQUESTS_S)
        stopping = asyncio.create_task(self._server.stop(watchdog_timeout_s))
        finished = asyncio.create_task(self._calls.finished())
        await asyncio.wait((stopping, finished), return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
        # a peer without calls that does not answer the goodbye is not waited for; another `stop(0)`
        # would say so, too, but two at a time crash the process (grpcio 1.85)
        await asyncio.wait((stopping,), timeout=GOODBYE_S)
        stopping.cancel()


def _try(host: str, port: int) -> None:
    """Raise the very OSError for which gRPC could not have a port: it does not tell itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()


def _handlers(calls: Calls, methods: Methods) -> dict[str, RpcMethodHandler]:
    return {
        name: (calls.stream if METHODS[name].streams else calls.unary)(METHODS[name].path, answer)
        for name, answer in methods.items()
    }


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        (
            "grpc.max_receive_message_length",
            min(settings.max_body_bytes + AROUND_BYTES, MOST_BYTES),
        ),
        ("grpc.max_send_message_length", -1),
        ("grpc.http2.max_ping_strikes", 0),  # keepalive is the client's choice: no ping is too many
        (
            "grpc.so_reuseport",
            0,
        ),  # a port that is taken is an error, not a share of its connections
    ]
