"""The health service of gRPC: whether the service is ready, and each change of that."""

from collections.abc import AsyncIterator

from grpc import GenericRpcHandler, method_handlers_generic_handler
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


class Health:
    """Answers with the phase of the service: `SERVING` while it is ready, and only then."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def handler(self, handlers: RpcHandlers) -> GenericRpcHandler:
        """Return the handler of the service's methods."""
        methods = {
            "Check": handlers.unary_unary(CHECK, self.check),
            "Watch": handlers.unary_stream(WATCH, self.watch),
        }
        return method_handlers_generic_handler(SERVICE, methods)

    async def check(self, request: bytes, _: ServicerContext) -> bytes:
        """Return the status of a service.

        Raises:
            UnknownService: no service has that name.
        """
        service = HealthCheckRequest.FromString(request).service
        if service not in SERVICES:
            raise UnknownService(f"unknown service {printable(service)}")
        return _serialize(self._status(service, self._lifecycle.phase))

    async def watch(self, request: bytes, _: ServicerContext) -> AsyncIterator[bytes]:
        """Yield the status of a service and each change, until the service stops listening."""
        service = HealthCheckRequest.FromString(request).service
        last = None
        async for phase in self._lifecycle.changes():
            status = self._status(service, phase)
            if status != last:
                yield _serialize(status)
                last = status

    def _status(self, service: str, phase: Phase) -> int:
        if service not in SERVICES:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        is_ready = phase is Phase.READY
        return int(HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING)


def _serialize(status: int) -> bytes:
    return bytes(HealthCheckResponse(status=status).SerializeToString())
