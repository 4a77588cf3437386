"""Run the HTTP and gRPC servers until a signal ends the process."""

import gc
import logging
import os
from functools import partial
from typing import Any, cast

import uvicorn

from service.device import Driver
from service.lifecycle import Lifecycle
from service.observability import logs
from service.oip.grpc.methods import grpc_methods
from service.oip.grpc.server import GrpcServer
from service.oip.state import OipState
from service.planned.planner import Planner
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.server.connection import Connection
from service.server.connection_limits import connection_limits
from service.server.planned_requests import PlannedRequests
from service.server.uvicorn_server import Server
from service.settings import Settings


def serve(settings: Settings, driver: Driver | None = None) -> None:
    """Serve until a signal comes or the device fails, then end the process.

    Args:
        settings: the operator's settings.
        driver: driver of the device to compute on; that of `settings.device` if None.
    """
    logs.set_up(settings.log_level)
    lifecycle = Lifecycle()
    service, device_threads = build_service(settings, lifecycle, driver)
    logs.output.on_drop = service.metrics.log_lines_dropped.inc
    oip_state = OipState(service, lifecycle)
    app = build_app(oip_state, device_threads)
    grpc = GrpcServer(settings, lifecycle, grpc_methods(oip_state), service.metrics)
    gc.freeze()  # the collector skips all objects that exist now: they live as long as the process
    gc.set_threshold(10_000, 20, 20)
    planned = PlannedRequests(
        Planner(oip_state),
        service.slab_pool,
        service.batcher,
        service.admission,
        lifecycle,
        app.request_log,
    )
    config = uvicorn.Config(
        app,
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http=cast(Any, partial(Connection, planned, connection_limits(settings))),
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
        lifespan=lifespan(oip_state, device_threads),
        listeners=[grpc],
        delay_s=settings.drain_delay_s,
        drain_s=settings.drain_s,
        unix_socket=settings.unix_socket,
    )
    service.metrics.connections.set_function(lambda: len(server.server_state.connections))
    server.run()
    logging.shutdown()
    # a call that a stuck device still holds would keep its thread, and a usual exit would wait
    os._exit(lifecycle.exit_code)
