"""Run the HTTP and gRPC servers until a signal ends the process."""

import gc
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import uvicorn

from service.access.certificates import CertificateError, Certificates, TlsFiles
from service.access.exposure import exposure_warning
from service.access.gate import Gate
from service.asgi.middleware import RequestMiddleware
from service.device import Driver
from service.errors import BadRequest
from service.inference.handler import InferenceHandler
from service.installation import GRPC_REMEDY, has_grpc
from service.lifecycle import Lifecycle
from service.observability import logs
from service.oip.state import OipState
from service.planned.planner import Planner
from service.resident_memory import ResidentLimit
from service.server.app import build_app
from service.server.asgi_protocol import AsgiProtocol
from service.server.bootstrap import build_service, lifespan
from service.server.connection import Connection
from service.server.connection_limits import ConnectionLimits, connection_limits
from service.server.connection_pacer import ConnectionPacer
from service.server.planned_requests import PlannedRequests
from service.server.tls_transport import RECEIVE_BYTES, TlsTransport
from service.server.uvicorn_server import Listener, Server, StatusPort
from service.server.websocket_streams import WebSocketStreams
from service.settings import Settings

log = logging.getLogger("rope.access")

MAX_STATUS_CONNECTIONS = 64
"""Most open connections of the status port."""


def serve(settings: Settings, driver: Driver | None = None) -> None:
    """Serve until a signal comes or the device fails, then end the process.

    Args:
        settings: the operator's settings.
        driver: driver of the device to compute on; that of `settings.device` if None.
    """
    logs.set_up(settings.log_level)
    built = build_server(settings, driver, listens_for_grpc=has_grpc())
    if not has_grpc():
        logging.getLogger("rope.grpc").info("gRPC is off; to turn it on: %s", GRPC_REMEDY)
    gc.freeze()  # the collector skips all objects that exist now: they live as long as the process
    gc.set_threshold(10_000, 20, 20)
    built.server.run()
    logging.shutdown()
    # a call that a stuck device still holds would keep its thread, and a usual exit would wait
    os._exit(built.lifecycle.exit_code)


class BuiltServer(NamedTuple):
    """A service that does not listen yet."""

    server: Server
    """Listens and ends; its lifespan is that of the service."""
    app: RequestMiddleware
    """The ASGI application, for requests that come another way than over a connection."""
    service: InferenceHandler
    lifecycle: Lifecycle


def build_server(
    settings: Settings, driver: Driver | None = None, *, listens_for_grpc: bool
) -> BuiltServer:
    """Return a service that listens when its server is run, on any thread with an event loop.

    Args:
        settings: the operator's settings.
        driver: driver of the device to compute on; that of `settings.device` if None.
        listens_for_grpc: whether it listens on `settings.grpc_port` as well.
    """
    certificates = _read_certificates(settings)
    warning = exposure_warning(
        settings.http_host,
        has_keys=settings.keys_file is not None,
        has_tls=certificates is not None,
    )
    if warning is not None:
        log.warning(warning)
    lifecycle = Lifecycle()
    service, device_threads = build_service(settings, lifecycle, driver)
    logs.output.on_drop = service.metrics.log_lines_dropped.inc
    oip_state = OipState(service, lifecycle)
    app = build_app(oip_state, device_threads)
    listeners = [_grpc_server(oip_state, certificates)] if listens_for_grpc else []
    planned = PlannedRequests(
        Planner(oip_state),
        service.slab_pool,
        service.batcher,
        service.admission,
        lifecycle,
        app.request_log,
    )
    streams = WebSocketStreams(oip_state.sessions, service, lifecycle, app.request_log)
    limits = connection_limits(settings, service.batcher.load)._replace(upgrades=streams)
    connection = partial(Connection, planned, limits)
    protocol: Callable[..., Any] = connection
    if certificates is not None:
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        protocol = partial(TlsTransport, certificates, buffer, limits, connection)
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http=cast(Any, protocol),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    server = Server(
        config,
        lifecycle,
        pacer=limits.pacer,
        lifespan=lifespan(oip_state, device_threads),
        listeners=listeners,
        delay_s=settings.drain_delay_s,
        drain_s=settings.drain_s,
        unix_socket=settings.unix_socket,
        status_port=_status_port(settings, limits),
        plain_protocol=connection,
        tls=None if certificates is None else certificates.current().context,
        reload_files=partial(_reload_files, service.gate, certificates),
    )
    recent = service.metrics.recent
    recent.num_connections = lambda: len(server.server_state.connections)
    recent.max_connections = limits.max_connections
    service.metrics.connections.set_function(recent.num_connections)
    service.metrics.connections_limit.set(limits.max_connections)
    return BuiltServer(server, app, service, lifecycle)


def _grpc_server(oip_state: OipState, certificates: Certificates | None) -> Listener:
    from service.oip.grpc.methods import grpc_methods
    from service.oip.grpc.server import GrpcServer

    service = oip_state.handler
    limit = ResidentLimit(service.admission.max_bytes)
    return GrpcServer(
        service.settings,
        oip_state.lifecycle,
        grpc_methods(oip_state, limit),
        service.metrics,
        limit,
        service.gate,
        certificates,
    )


def _status_port(settings: Settings, limits: ConnectionLimits) -> StatusPort | None:
    if settings.status_port is None:
        return None
    status_limits = limits._replace(pacer=ConnectionPacer(MAX_STATUS_CONNECTIONS))
    refusal = BadRequest("this port serves health, readiness and metrics only")
    protocol = partial(AsgiProtocol, status_limits, only_status=refusal)
    return StatusPort(settings.status_port, protocol, status_limits.pacer)


def _reload_files(gate: Gate, certificates: Certificates | None) -> None:
    """Read the keys and the certificates, whether or not their files have changed."""
    gate.reload()
    if certificates is not None:
        certificates.reload()


def _read_certificates(settings: Settings) -> Certificates | None:
    """Return the certificates; None: no TLS.

    Raises:
        SystemExit: a file cannot be used.
    """
    certificate, key = settings.tls_cert_file, settings.tls_key_file
    if certificate is None or key is None:
        return None
    try:
        return Certificates(TlsFiles(certificate, key, settings.tls_client_ca_file))
    except CertificateError as failure:
        raise SystemExit(f"rope-service: TLS: {failure}") from None
