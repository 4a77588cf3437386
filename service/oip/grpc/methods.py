"""All methods of the service, by name."""

from service.oip.grpc.control import control_methods
from service.oip.grpc.infer import InferMethods
from service.oip.grpc.server import Methods
from service.oip.state import OipState
from service.resident_memory import ResidentLimit


def grpc_methods(oip_state: OipState, limit: ResidentLimit | None = None) -> Methods:
    """Return the functions that answer, by the name of the method.

    Args:
        oip_state: what all methods share.
        limit: limit of the resident memory; None: large answers are only charged.
    """
    infer = InferMethods(oip_state, limit)
    return {
        **control_methods(oip_state),
        "ModelInfer": infer.unary,
        "ModelStreamInfer": infer.stream,
    }
