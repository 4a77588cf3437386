"""The reflection service of gRPC: tools such as grpcurl ask it for the protocol's descriptors."""

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
from service.oip.grpc.rpc_handlers import RpcHandlers
from service.oip.grpc.streams import while_open

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"


class Reflection:
    """Describes all services of this server. Both versions of it differ in their name alone."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        names = (messages.SERVICE, health.SERVICE, *SERVICES)
        self._servicer = reflection.aio.ReflectionServicer(names, _pool())

    def handlers(self, handlers: RpcHandlers) -> list[GenericRpcHandler]:
        """Return the handlers of the services' one method."""
        return [
            method_handlers_generic_handler(
                service, {METHOD: handlers.stream_stream(f"/{service}/{METHOD}", self.describe)}
            )
            for service in SERVICES
        ]

    async def describe(
        self, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[bytes]:
        """Yield the answer to each request, until the service stops listening."""
        parsed = _parse(while_open(requests, self._lifecycle))
        async for response in self._servicer.ServerReflectionInfo(parsed, context):
            yield response.SerializeToString()


async def _parse(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield ServerReflectionRequest.FromString(request)


def _pool() -> DescriptorPool:
    pool = messages.make_pool()
    v1alpha = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    v1 = Parse(MessageToJson(v1alpha).replace("v1alpha", "v1"), FileDescriptorProto())
    for file in (v1alpha, v1, FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)):
        pool.AddSerializedFile(file.SerializeToString())
    return pool
