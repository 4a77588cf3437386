"""The reflection service of gRPC: tools such as grpcurl ask it for what others have from files."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, Parse
from grpc import GenericRpcHandler, method_handlers_generic_handler
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from service.lifecycle import Lifecycle
from service.oip.grpc import health, messages
from service.oip.grpc.rpc_handlers import Calls
from service.oip.grpc.streams import while_open

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"


class Reflection:
    """Tells of all services of this server, as both versions: they differ in their name alone."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        known = (messages.SERVICE, health.SERVICE, *SERVICES)
        self._servicer = reflection.aio.ReflectionServicer(known, _pool())

    def handlers(self, calls: Calls) -> list[GenericRpcHandler]:
        """Return the handlers of the services' one method."""
        return [
            method_handlers_generic_handler(
                service, {METHOD: calls.stream(f"/{service}/{METHOD}", self.tell)}
            )
            for service in SERVICES
        ]

    async def tell(
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Yield the answer to each question, until the doors close."""
        asked = _parsed(while_open(requests, self._lifecycle))
        async for told in self._servicer.ServerReflectionInfo(asked, context):
            yield told.SerializeToString()


async def _parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield ServerReflectionRequest.FromString(request)


def _pool() -> DescriptorPool:
    pool = messages.make_pool()
    alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    first = Parse(MessageToJson(alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    for file in (alpha, first, FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)):
        pool.AddSerializedFile(file.SerializeToString())
    return pool
