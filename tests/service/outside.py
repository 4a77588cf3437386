"""The whole service in this process, as its clients and its operator see it.

The only file of the tests of refusals that imports from the service: a change of the inside of the
service changes this file alone.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import torch

from service.lifecycle import Lifecycle
from service.oip.grpc.methods import grpc_methods
from service.oip.grpc.server import GrpcServer
from service.oip.state import OipState
from service.resident_memory import ResidentLimit
from service.server.app import build_app
from service.server.bootstrap import build_service, lifespan
from service.settings import Settings
from tests.free_ports import free_port

Event = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]],
    Awaitable[None],
]


@dataclass(frozen=True)
class Outside:
    """A running service."""

    app: App
    """The ASGI application."""
    channel: grpc.aio.Channel
    hold: Callable[[], None]
    """Let no call run: calls wait in the queue until `release`."""
    release: Callable[[], None]
    metrics: Any
    """`Metrics` of the service."""
    end_drain: Callable[[], None]
    """Do what the service does when the time to drain is over."""


@asynccontextmanager
async def whole_service(driver: Any = None, **settings: Any) -> AsyncIterator[Outside]:
    """Run a service over HTTP and gRPC; `driver` is that of the device, None for the CPU."""
    threads = torch.get_num_threads()
    chosen = Settings(device="cpu", grpc_port=free_port(), warm_up_shapes="", **settings)
    lifecycle = Lifecycle()
    handler, device_threads = build_service(chosen, lifecycle, driver)
    state = OipState(handler, lifecycle)
    limit = ResidentLimit(handler.admission.max_bytes)
    methods = grpc_methods(state)
    listener = GrpcServer(chosen, lifecycle, methods, handler.metrics, limit, handler.gate)
    app = build_app(state, device_threads)
    others = asyncio.all_tasks()
    async with lifespan(state, device_threads):
        await asyncio.wait(asyncio.all_tasks() - others)  # the warm-up, whose end releases calls
        await listener.open()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{chosen.grpc_port}") as channel:
            yield Outside(
                app,
                channel,
                hold=handler.batcher.pause,
                release=handler.batcher.resume,
                metrics=handler.metrics,
                end_drain=lifecycle.abort_pending,
            )
        await listener.close(0)
    torch.set_num_threads(threads)
