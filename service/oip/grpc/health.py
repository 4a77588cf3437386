"""The health service of gRPC: whether traffic is welcome, and each change of that."""

from collections.abc import AsyncIterator

from grpc import GenericRpcHandler, method_handlers_generic_handler
from grpc.aio import ServicerContext
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.errors import printable
from service.lifecycle import Lifecycle, Phase
from service.oip.errors import UnknownService
from service.oip.grpc import messages
from service.oip.grpc.rpc_handlers import Calls

SERVICE = "grpc.health.v1.Health"
CHECK, WATCH = f"/{SERVICE}/Check", f"/{SERVICE}/Watch"

KNOWN = ("", messages.SERVICE)
"""Who may be asked for; the empty name is the whole server."""


class Health:
    """Answers for the service's life: it serves while it is ready, and only then."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def handler(self, calls: Calls) -> GenericRpcHandler:
        """Return the handler of the service's methods."""
        methods = {"Check": calls.unary(CHECK, self.check), "Watch": calls.watch(WATCH, self.watch)}
        return method_handlers_generic_handler(SERVICE, methods)

    async def check(self, request: bytes, _: ServicerContext) -> bytes:
        """Return how a service is.

        Raises:
            UnknownService: there is no such service.
        """
        service = HealthCheckRequest.FromString(request).service
        if service not in KNOWN:
            raise UnknownService(f"unknown service {printable(service)}")
        return _written(self._status(service, self._lifecycle.phase))

    async def watch(self, request: bytes, _: ServicerContext) -> AsyncIterator[bytes]:
        """Yield how a service is, and again when that changes, until the doors close."""
        service = HealthCheckRequest.FromString(request).service
        told = None
        async for phase in self._lifecycle.changes():
            status = self._status(service, phase)
            if status != told:
                yield _written(status)
                told = status

    def _status(self, service: str, phase: Phase) -> int:
        if service not in KNOWN:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        serves = phase is Phase.READY
        return int(HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING)


def _written(status: int) -> bytes:
    return bytes(HealthCheckResponse(status=status).SerializeToString())
