"""Servers of gRPC in this process, on a port of their own, and the methods of any server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from service.access.certificates import Certificates
from service.access.gate import Gate
from service.lifecycle import Lifecycle
from service.observability.metrics import Metrics
from service.oip.grpc.messages import METHODS
from service.oip.grpc.server import GrpcServer, Methods
from service.oip.shm.registry import SharedMemoryRegistry
from service.resident_memory import ResidentLimit
from service.settings import Settings
from tests.free_ports import free_port
from tests.service.oip.shared_objects import SharedObjects


class RunningGrpc:
    """A listening gRPC server, a channel to it, and its metrics."""

    def __init__(self, server: GrpcServer, target: str, metrics: Metrics) -> None:
        self.server = server
        self.target = target
        self.metrics = metrics
        self.channel = grpc.aio.insecure_channel(target)

    async def ask(self, name: str, body: bytes = b"", **more: Any) -> bytes:
        return await self.channel.unary_unary(METHODS[name].path)(body, **more)


@asynccontextmanager
async def run_grpc(
    lifecycle: Lifecycle,
    methods: Methods,
    limit: ResidentLimit | None = None,
    gate: Gate | None = None,
    certificates: Certificates | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGrpc]:
    chosen = Settings(**{"grpc_port": free_port(), "log_level": "warning", **settings})
    metrics = Metrics()
    limit = limit or ResidentLimit(2**40)
    server = GrpcServer(chosen, lifecycle, methods, metrics, limit, gate or Gate(), certificates)
    await server.open()
    running = RunningGrpc(server, f"127.0.0.1:{chosen.grpc_port}", metrics)
    try:
        yield running
    finally:
        await running.channel.close()
        await server.close(0)


@pytest.fixture
def channel(grpc_target: str) -> Iterator[grpc.Channel]:
    """A channel to the service that all tests share."""
    with grpc.insecure_channel(grpc_target) as channel:
        yield channel


def ask(channel: grpc.Channel, name: str, /, **fields: Any) -> Any:
    """Ask a method of the protocol, by our own messages."""
    method = METHODS[name]
    call = channel.unary_unary(
        method.path,
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=method.response.FromString,
    )
    return call(method.request(**fields), timeout=30)


@pytest.fixture(scope="module")
def folder() -> Iterator[SharedObjects]:
    """Objects of shared memory, removed after the tests of the file."""
    objects = SharedObjects()
    yield objects
    objects.clear()


@pytest.fixture
def regions(folder: SharedObjects) -> Iterator[SharedMemoryRegistry]:
    """The registry of regions in objects of `folder`."""
    registry = SharedMemoryRegistry(folder.prefix)
    yield registry
    registry.close()
