"""Messages and methods of the protocol, from `protos/`, in a pool of descriptors of their own.

All who speak the protocol call their messages `inference.*`, and the pool that generated code
registers itself in takes a name once: here nothing is registered there, so that a client of the
protocol may be imported beside the service.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
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
    """Return a new pool that knows the protocol, and nothing else."""
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service: its name on the wire, and the classes of what it exchanges."""

    path: str
    request: Any
    response: Any
    streams: bool
    """Whether both sides send any number of messages."""

    def answer(self, document: Mapping[str, Any]) -> Any:
        """Return the response that says the same as a document in JSON's terms.

        Raises:
            ParseError: the response has no such fields.
        """
        return ParseDict(document, self.response())


_POOL = make_pool()


def message(name: str) -> Any:
    """Return the class of a message, by its name in the package."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _methods() -> Mapping[str, Method]:
    described = _POOL.FindServiceByName(SERVICE).methods
    return MappingProxyType(
        {
            each.name: Method(
                path=f"/{SERVICE}/{each.name}",
                request=GetMessageClass(each.input_type),
                response=GetMessageClass(each.output_type),
                streams=each.client_streaming and each.server_streaming,
            )
            for each in described
        }
    )


METHODS = _methods()
"""All methods of the service, by name."""

InferParameter = message("InferParameter")
ModelInferRequest = message("ModelInferRequest")
ModelInferResponse = message("ModelInferResponse")
ModelStreamInferResponse = message("ModelStreamInferResponse")
