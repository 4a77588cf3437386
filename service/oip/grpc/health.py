"""The health service of gRPC: whether the service is ready, and each change of that."""

from collections.abc import AsyncGenerator, AsyncIterator

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.errors import printable
from service.lifecycle import Lifecycle, Phase
from service.oip.errors import UnknownService
from service.oip.grpc import messages
from service.oip.grpc.rpc import Rpc
from service.oip.grpc.rpc_handlers import StreamMethod, UnaryMethod

SERVICE = "grpc.health.v1.Health"
CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"

SERVICES = ("", messages.SERVICE)
"""Names of services with a status; the empty name is the whole server."""


def check_method(lifecycle: Lifecycle) -> UnaryMethod:
    """Return the RPC method of `Check`: whether a service is ready."""

    async def check(request: bytes, _: Rpc) -> bytes:
        """Return the status of a service.

        Raises:
            UnknownService: no service has that name.
        """
        service = HealthCheckRequest.FromString(request).service
        if service not in SERVICES:
            raise UnknownService(f"unknown service {printable(service)}")
        return _serialize(_status(service, lifecycle.phase))

    return check


def watch_method(lifecycle: Lifecycle) -> StreamMethod:
    """Return the RPC method of `Watch`: a message for each change of readiness."""

    async def watch(requests: AsyncIterator[bytes], _: Rpc) -> AsyncGenerator[bytes, None]:
        """Yield the status of a service and each change, until the service stops listening."""
        service = HealthCheckRequest.FromString(await anext(requests, b"")).service
        last = None
        async for phase in lifecycle.changes():
            status = _status(service, phase)
            if status != last:
                yield _serialize(status)
                last = status

    return watch


def _status(service: str, phase: Phase) -> int:
    if service not in SERVICES:
        return int(HealthCheckResponse.SERVICE_UNKNOWN)
    is_ready = phase is Phase.READY
    return int(HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING)


def _serialize(status: int) -> bytes:
    return bytes(HealthCheckResponse(status=status).SerializeToString())
