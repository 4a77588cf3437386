"""The health service of gRPC: whether the service is ready, and each change of that."""

from collections.abc import AsyncIterator

import grpc
from grpc.aio import ServicerContext
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.errors import printable
from service.lifecycle import Lifecycle, Phase
from service.oip.errors import UnknownService
from service.oip.grpc import messages
from service.oip.grpc.rpc_handlers import RpcHandlers

SERVICE = "grpc.health.v1.Health"
CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"

SERVICES = ("", messages.SERVICE)
"""Names of services with a status; the empty name is the whole server."""


def health_handler(lifecycle: Lifecycle, rpcs: RpcHandlers) -> grpc.GenericRpcHandler:
    """Return the handler of the health service: `SERVING` while the service is ready."""

    async def check(request: bytes, _: ServicerContext) -> bytes:
        """Return the status of a service.

        Raises:
            UnknownService: no service has that name.
        """
        service = HealthCheckRequest.FromString(request).service
        if service not in SERVICES:
            raise UnknownService(f"unknown service {printable(service)}")
        return _serialize(_status(service, lifecycle.phase))

    async def watch(request: bytes, _: ServicerContext) -> AsyncIterator[bytes]:
        """Yield the status of a service and each change, until the service stops listening."""
        service = HealthCheckRequest.FromString(request).service
        last = None
        async for phase in lifecycle.changes():
            status = _status(service, phase)
            if status != last:
                yield _serialize(status)
                last = status

    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(rpcs.unary(CHECK, check)),
        "Watch": grpc.unary_stream_rpc_method_handler(rpcs.stream(WATCH, watch)),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def _status(service: str, phase: Phase) -> int:
    if service not in SERVICES:
        return int(HealthCheckResponse.SERVICE_UNKNOWN)
    is_ready = phase is Phase.READY
    return int(HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING)


def _serialize(status: int) -> bytes:
    return bytes(HealthCheckResponse(status=status).SerializeToString())
