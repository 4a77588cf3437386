"""Messages of the inference protocol, read from the description that the service ships.

Nothing is imported from the service, so that the recorded requests outlive its inside.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from tests.conftest import ROOT

SERVICE = "inference.GRPCInferenceService"

(_DESCRIPTORS,) = (ROOT / "service").rglob("protocol.binpb")
_POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def request_class(method: str) -> Any:
    """Return the class of the requests of a method."""
    return GetMessageClass(_POOL.FindServiceByName(SERVICE).methods_by_name[method].input_type)


def response_class(method: str) -> Any:
    """Return the class of the responses of a method."""
    return GetMessageClass(_POOL.FindServiceByName(SERVICE).methods_by_name[method].output_type)


def path_of(method: str) -> str:
    """Return the path of a method in an HTTP/2 request."""
    return f"/{SERVICE}/{method}"
