"""All methods of the service, by name."""

from service.oip.grpc.control import control_methods
from service.oip.grpc.infer import InferMethods
from service.oip.grpc.server import Methods
from service.oip.state import OipState


def grpc_methods(oip_state: OipState) -> Methods:
    """Return the functions that answer, by the name of the method."""
    infer = InferMethods(oip_state)
    return {
        **control_methods(oip_state),
        "ModelInfer": infer.unary,
        "ModelStreamInfer": infer.stream,
    }
