"""The reflection service of gRPC: tools such as grpcurl ask it for the protocol's descriptors."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, Parse
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from service.lifecycle import Lifecycle
from service.oip.grpc import health, messages
from service.oip.grpc.rpc import Rpc
from service.oip.grpc.rpc_handlers import StreamMethod
from service.oip.grpc.streams import while_open

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
PATHS = tuple(f"/{service}/ServerReflectionInfo" for service in SERVICES)


def describe_method(lifecycle: Lifecycle) -> StreamMethod:
    """Return the method of both versions, which differ in their path alone."""
    names = (messages.SERVICE, health.SERVICE, *SERVICES)
    servicer = reflection.aio.ReflectionServicer(names, _pool())

    async def describe(requests: AsyncIterator[bytes], rpc: Rpc) -> AsyncGenerator[bytes, None]:
        """Yield the answer to each request, until the service stops listening."""
        parsed = _parse(while_open(requests, lifecycle))
        async for response in servicer.ServerReflectionInfo(parsed, rpc):
            yield response.SerializeToString()

    return describe


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
