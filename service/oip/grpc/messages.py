"""Messages and methods of the protocol, from `protos/`, in a separate descriptor pool.

Generated code registers messages in protobuf's default pool, which allows each name once, and every
client of the protocol has messages named `inference.*`. This module registers nothing there, so
that a client and the service can be imported into one process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
PROTOS = files(__package__) / "protos"
DESCRIPTORS = PROTOS / "protocol.binpb"


def make_pool() -> DescriptorPool:
    """Return a new pool with the protocol's descriptors only."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service: its path, and the classes of its messages."""

    path: str
    request: Any
    response: Any
    streams: bool
    """Whether both sides send any number of messages."""

    def answer(self, document: Mapping[str, Any]) -> Any:
        """Return the response with the fields of a JSON document.

        Raises:
            ParseError: the response has no such fields.
        """
        return ParseDict(document, self.response())


_POOL = make_pool()


def message(name: str) -> Any:
    """Return the class of a message, by its name in the package."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


METHODS: Mapping[str, Method] = {
    method.name: Method(
        path=f"/{SERVICE}/{method.name}",
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        streams=method.client_streaming and method.server_streaming,
    )
    for method in _POOL.FindServiceByName(SERVICE).methods
}
"""All methods of the service, by name."""

InferParameter = message("InferParameter")
ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
