"""Who answers which method."""

from service.oip.grpc.control import control_methods
from service.oip.grpc.infer import Infer
from service.oip.grpc.server import Methods
from service.oip.state import OipState


def grpc_methods(oip_state: OipState) -> Methods:
    """Return what answers, by name of the method."""
    infer = Infer(oip_state)
    return {
        **control_methods(oip_state),
        "ModelInfer": infer.one,
        "ModelStreamInfer": infer.stream,
    }
