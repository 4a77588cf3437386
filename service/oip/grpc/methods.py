"""Who answers which method."""

from service.oip.grpc.control import control_methods
from service.oip.grpc.infer import Infer
from service.oip.grpc.server import Methods
from service.oip.state import Protocol


def grpc_methods(protocol: Protocol) -> Methods:
    """Return what answers, by name of the method."""
    infer = Infer(protocol)
    return {
        **control_methods(protocol),
        "ModelInfer": infer.one,
        "ModelStreamInfer": infer.stream,
    }
